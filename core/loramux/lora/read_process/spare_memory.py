"""Shared memory that was touched before anybody needs it."""

from __future__ import annotations

import os
import queue
import threading

from loramux.lora.read_process.shared_memory import SharedFile, touch

MAX_SPARES = 4
MIN_BYTES = 2**20
MAX_BYTES = 2**28
"""Sizes between which it is worth having some to spare: at most 1 GiB of it."""

MAX_EXCESS = 1.25
NICENESS = 15
"""Nobody waits for it."""


class SpareMemory:
    """Gives shared files, each replaced in the background by another of its size.

    A system that shares memory page by page of 4 KiB takes about as long to find and zero it as to
    read an adapter into it. Adapters of one base model mostly have one size.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spares: list[SharedFile] = []
        self._wanted: queue.SimpleQueue[int] = queue.SimpleQueue()
        threading.Thread(target=self._prepare, name="loramux-spare", daemon=True).start()

    def take(self, size: int) -> SharedFile:
        """A file whose content has so many bytes, of any values.

        Raises:
            OSError: there is no such memory.
        """
        spare = self._take(size)
        if MIN_BYTES <= size <= MAX_BYTES:
            self._wanted.put(size)
        if spare is None:
            return SharedFile(size)
        spare.shorten(size)
        return spare

    @property
    def num_spares(self) -> int:
        return len(self._spares)

    def _take(self, size: int) -> SharedFile | None:
        with self._lock:
            for position, spare in enumerate(self._spares):
                if size <= spare.num_bytes <= MAX_EXCESS * size:
                    return self._spares.pop(position)
        return None

    def _prepare(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while True:
            try:
                self._add(self._wanted.get())
            except OSError:  # there is too little memory to have some to spare
                continue

    def _add(self, size: int) -> None:
        spare = SharedFile(size)
        touch(spare.content, writes=True)
        with self._lock:
            self._spares.append(spare)
            surplus = self._spares[:-MAX_SPARES]
            del self._spares[:-MAX_SPARES]
        for old in surplus:
            old.close()
