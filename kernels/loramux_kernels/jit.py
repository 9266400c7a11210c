"""Triton's decorator, typed, in the two ways it is used here."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import partial
from threading import RLock
from typing import Any

import triton
from triton.runtime.jit import JITFunction

is_rehearsing: ContextVar[bool] = ContextVar("is_rehearsing", default=False)
"""Whether launches of this thread launch nothing; see ``loramux_kernels.ahead.rehearsal``."""


_unhashed: deque[JITFunction] = deque()
_hashing = RLock()


def device_function(function: Callable[..., Any]) -> Any:
    """A function that kernels call."""
    compiled = triton.jit(function)
    if not triton.knobs.runtime.interpret:
        _unhashed.append(compiled)
    return compiled


class Kernel(JITFunction):  # type: ignore[misc]  # Triton has no types
    """A function that is launched: ``kernel[grid](...)``."""

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        super().__init__(function, **options)
        _unhashed.append(self)

    @property
    def cache_key(self) -> str:
        """Under which Triton finds the compiled kernel again, the same in every process.

        Triton's hash of a function lacks the constants of what it calls if nobody has hashed that
        before. So all functions are hashed in the order in which they are defined, which has what
        is called from another module first.
        """
        with _hashing:
            while _unhashed:
                JITFunction.cache_key.fget(_unhashed.popleft())
        key: str = super().cache_key
        return key

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., Any]:
        return partial(self.run, grid=grid, warmup=is_rehearsing.get())


def kernel(*, unspecialized: Sequence[str] = ()) -> Callable[[Callable[..., Any]], Any]:
    """A function that is launched.

    Triton compiles anew when an integer becomes 1 or divisible by 16, or a pointer unaligned. The
    ``unspecialized`` arguments gain nothing from that and must not cost a compilation while
    requests wait.
    """
    names = list(unspecialized)
    options = {"do_not_specialize": names, "do_not_specialize_on_alignment": names}

    def decorate(function: Callable[..., Any]) -> Any:
        if triton.knobs.runtime.interpret:
            return triton.jit(function, **options)
        return Kernel(function, **options)

    return decorate
