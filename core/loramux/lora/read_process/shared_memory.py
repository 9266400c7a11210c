"""Memory that two processes see, and that is gone with the last of them, however it ends."""

from __future__ import annotations

import ctypes
import mmap
import os
import queue
import threading
from functools import cache
from typing import Any

import numpy as np

from loramux.lora.checkpoint.finite import Bytes

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

MADV_POPULATE_READ, MADV_POPULATE_WRITE = 22, 23
TOUCHED_BYTES = 2**21
"""At once, so that others who change what is mapped wait for less than a millisecond."""

_FAILED = ctypes.c_void_p(-1).value


class SharedFile:
    """A file without a name, in memory. Its descriptor may be sent to another process.

    Args:
        size: bytes of ``content``, which are zeroed.

    Attributes:
        content: the file's first bytes, mapped here.
        num_bytes: its size, with what was appended.

    Raises:
        OSError: there is no such memory.
    """

    def __init__(self, size: int = 0) -> None:
        self.descriptor = os.memfd_create("loramux-adapter", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self.descriptor, size)
            self.content = map_shared(self.descriptor, size)
        except OSError:
            self.close()
            raise
        self.num_bytes = size

    def shorten(self, size: int) -> None:
        """Keep the first bytes; once, before anything is appended."""
        os.ftruncate(self.descriptor, size)
        self.content = self.content[:size]
        self.num_bytes = size

    def append(self, content: bytes | memoryview, alignment: int) -> int:
        """Write behind what is there; returns where that begins."""
        start = -(-self.num_bytes // alignment) * alignment
        view = memoryview(content)
        done = 0
        while done < view.nbytes:
            done += os.pwrite(self.descriptor, view[done:], start + done)
        self.num_bytes = start + done
        return start

    def close(self) -> None:
        """Close the descriptor; memory that is mapped stays."""
        os.close(self.descriptor)


def touch(content: Bytes, *, writes: bool) -> None:
    """Have the system find memory, or the way from here to it, now and not when it is used."""
    first = content.ctypes.data
    for start in range(0, content.size, TOUCHED_BYTES):
        size = min(TOUCHED_BYTES, content.size - start)
        advice = MADV_POPULATE_WRITE if writes else MADV_POPULATE_READ
        _libc.madvise(first + start, size, advice)  # unknown before Linux 5.14


def map_shared(descriptor: int, size: int) -> Bytes:
    """A shared file's content, mapped until the last view of it is gone.

    More bytes than the file has may be mapped, and used once it has them.

    Python's own ``mmap`` would keep a descriptor open for as long, and have the thread that drops
    the last view give the pages back, which takes as long as to read them.

    Raises:
        OSError: it cannot be mapped.
    """
    if size == 0:
        return np.empty(0, np.uint8)
    return np.asarray(_Mapping(descriptor, size))


class _Mapping:
    """Owner of mapped memory, which numpy makes views of."""

    def __init__(self, descriptor: int, size: int) -> None:
        access = mmap.PROT_READ | mmap.PROT_WRITE
        address = _libc.mmap(None, size, access, mmap.MAP_SHARED, descriptor, 0)
        if address == _FAILED:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self._address, self._size = address, size
        self._unmapper = _unmapper()  # while the interpreter still has all that it takes
        if hasattr(mmap, "MADV_HUGEPAGE"):
            _libc.madvise(address, size, mmap.MADV_HUGEPAGE)  # which few systems heed for files

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3,
            "typestr": "|u1",
            "shape": (self._size,),
            "data": (self._address, False),
        }

    def __del__(self) -> None:
        if hasattr(self, "_unmapper"):
            self._unmapper.put((self._address, self._size))


@cache
def _unmapper() -> queue.SimpleQueue[tuple[int, int]]:
    """A thread that gives memory back: milliseconds that nobody should have to wait for."""
    given: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()

    def unmap() -> None:
        while True:
            _libc.munmap(*given.get())

    threading.Thread(target=unmap, name="loramux-unmap", daemon=True).start()
    return given
