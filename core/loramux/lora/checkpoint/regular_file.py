"""Opening the files of an adapter, whose author may exchange them at any time."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

from loramux.errors import AdapterRefusedError
from loramux.lora.checkpoint.real_file import open_without_links


def open_regular(path: Path, *, follow_links: bool = True) -> io.BufferedReader:
    """Open a file for reading, and nothing else that has come into its place since one looked.

    Args:
        follow_links: False for an absolute path that held no link when one looked.

    Raises:
        AdapterRefusedError: it is a pipe or a device by now, or may be a link and is one.
        OSError: it cannot be opened.
    """

    def opened(name: str, flags: int) -> int:
        # A pipe would be waited for until somebody writes to it, and the thread be lost.
        flags |= os.O_NONBLOCK
        return os.open(name, flags) if follow_links else open_without_links(path, flags)

    def opened_regular(name: str, flags: int) -> int:
        descriptor = opened(name, flags)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
        raise AdapterRefusedError(f"{path.name} is no regular file; put one there.")

    return open(path, "rb", opener=opened_regular)
