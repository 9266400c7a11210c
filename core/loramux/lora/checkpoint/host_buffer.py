"""Memory that a file is read into: of large pages where the system has them."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from loramux.lora.checkpoint.finite import Bytes

Allocate = Callable[[int], Bytes]
"""Gives so many bytes of memory, of any values, for as long as a view of them is there."""


def host_buffer(size: int) -> Bytes:
    """Zeroed memory of its own, given back to the system when the last view of it is gone.

    Page by page of 4 KiB, touching a fresh buffer takes longer than reading a cached file into
    it, and giving it back holds Python's lock for milliseconds.

    Raises:
        OSError: if there is no such memory.
    """
    if size == 0:
        return np.empty(0, np.uint8)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # it is advice, which a kernel may be built without
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)
