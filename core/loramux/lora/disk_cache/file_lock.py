"""Locks between processes, and between threads of one: ``flock`` on a file."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self


class FileLock:
    """A file that is open so that it can be locked; closing it, or dying, unlocks it.

    Two objects exclude each other even in one thread.

    Args:
        path: the file; it is created if need be.

    Raises:
        OSError: if it cannot be opened for writing.
    """

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(descriptor, "r+b", buffering=0)

    def wait_exclusive(self) -> None:
        """Block until nobody else holds the lock in any way."""
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def wait_shared(self) -> None:
        """Block until nobody else holds the lock exclusively."""
        fcntl.flock(self._file, fcntl.LOCK_SH)

    def try_exclusive(self) -> bool:
        """Take the lock, unless somebody else holds it in any way."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Unlock; may be called again."""
        if not self._file.closed:
            # Closing alone would leave the lock to a process that was forked off meanwhile.
            fcntl.flock(self._file, fcntl.LOCK_UN)
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def is_held(path: Path) -> bool:
    """Whether somebody holds the lock in any way."""
    with FileLock(path) as lock:
        return not lock.try_exclusive()
