"""Triton's decorator, typed, in the two ways it is used here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import triton


def device_function(function: Callable[..., Any]) -> Any:
    """A function that kernels call."""
    return triton.jit(function)


def kernel(*, unspecialized: Sequence[str] = ()) -> Callable[[Callable[..., Any]], Any]:
    """A function that is launched.

    Triton compiles anew when an integer becomes 1 or divisible by 16, or a pointer unaligned. The
    ``unspecialized`` arguments gain nothing from that and must not cost a compilation while
    requests wait.
    """
    names = list(unspecialized)

    def decorate(function: Callable[..., Any]) -> Any:
        return triton.jit(function, do_not_specialize=names, do_not_specialize_on_alignment=names)

    return decorate
