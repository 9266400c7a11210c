"""What a piece of code would launch, found by running it while nothing is launched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, KeysView
from contextlib import contextmanager
from typing import Any, NamedTuple

from triton import knobs

from loramux_kernels.jit import is_rehearsing


class Specialization(NamedTuple):
    """One kernel for one kind of arguments, which is what Triton compiles."""

    module: str
    name: str
    data: str
    """As Triton writes it for ``JITFunction.preload``, which so computes the same cache key."""


@contextmanager
def rehearsal() -> Iterator[KeysView[Specialization]]:
    """Launch nothing in this thread, and list what would have had to be compiled.

    Everything else runs. What kernels would have written is whatever was there before, so nothing
    may depend on it: no index, and no loop of the host.

    Yields:
        What was found so far, each once, without what this process has compiled already.
    """
    found: dict[Specialization, None] = {}
    hook_before = knobs.runtime.jit_cache_hook
    knobs.runtime.jit_cache_hook = _hook(found, hook_before)
    token = is_rehearsing.set(True)
    try:
        yield found.keys()
    finally:
        is_rehearsing.reset(token)
        knobs.runtime.jit_cache_hook = hook_before


def _hook(
    found: dict[Specialization, None], before: Callable[..., bool] | None
) -> Callable[..., bool]:
    """Called for each launch whose kernel has to be compiled; True makes Triton leave it at that.

    Other threads go on as they would, by way of the hook that was there before.
    """

    def hook(*, fn: Any, compile: dict[str, Any], **details: Any) -> bool:
        if is_rehearsing.get():
            found[Specialization(fn.module, fn.name, compile["specialization_data"])] = None
            return True
        return before is not None and before(fn=fn, compile=compile, **details)

    return hook
