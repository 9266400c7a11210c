"""Opening the files of an adapter, whose author may exchange them at any time."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

from loramux.errors import AdapterRefusedError


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file for reading, and nothing else that has come into its place since one looked.

    Raises:
        AdapterRefusedError: it is a pipe or a device by now.
        OSError: it cannot be opened.
    """
    return open(path, "rb", opener=_open_regular)


def _open_regular(path: str, flags: int) -> int:
    # A pipe would be waited for until somebody writes to it, and the thread be lost.
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise AdapterRefusedError(f"{os.path.basename(path)} is no regular file; put one there.")
