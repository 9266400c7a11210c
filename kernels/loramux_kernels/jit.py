"""Triton's decorator, typed, in the two ways it is used here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any

import triton
from triton.runtime.jit import JITFunction

is_rehearsing: ContextVar[bool] = ContextVar("is_rehearsing", default=False)
"""Whether launches of this thread launch nothing; see ``loramux_kernels.ahead.rehearsal``."""


def device_function(function: Callable[..., Any]) -> Any:
    """A function that kernels call."""
    return triton.jit(function)


class Kernel(JITFunction):  # type: ignore[misc]  # Triton has no types
    """A function that is launched: ``kernel[grid](...)``."""

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
