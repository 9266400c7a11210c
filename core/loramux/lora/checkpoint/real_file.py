"""Files of an adapter that have to lie where its finder saw them, whatever is linked meanwhile.

Links are followed once, and what they lead to is checked. What is opened then is that real path,
link by no link: the system refuses one that has come into it since. So nothing outside is ever
opened, which a look at an open file's place would be too late for, and it takes ``openat`` alone,
where ``openat2`` and ``/proc/self/fd`` are Linux's.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from loramux.errors import AdapterRefusedError
from loramux.lora.links import is_below

_ON_THE_WAY = os.O_DIRECTORY | getattr(os, "O_PATH", os.O_RDONLY)
"""With ``O_PATH`` a directory needs to be passable only, as it does on any path."""

_IS_LINK = {errno.ELOOP, errno.ENOTDIR}


def real_file(path: Path, allowed_directories: Sequence[str]) -> Path:
    """Where a file really is; where nothing is said of directories, links are left in.

    Args:
        allowed_directories: real paths.

    Raises:
        AdapterRefusedError: it lies in none of the directories.
    """
    if not allowed_directories:
        return path
    real = os.path.realpath(path)
    if any(is_below(allowed, real) for allowed in allowed_directories):
        return Path(real)
    raise AdapterRefusedError(
        f"{path.name} lies outside of the directories in which the adapter was found; "
        "put a file there and no link that leads out."
    )


def open_without_links(path: Path, flags: int) -> int:
    """Open an absolute path that holds no link.

    Raises:
        AdapterRefusedError: it does by now.
        OSError: it cannot be opened.
    """
    try:
        return _open(path, flags)
    except OSError as error:
        if error.errno not in _IS_LINK:
            raise
        raise AdapterRefusedError(
            f"{path.name} was exchanged for a link as it was opened; leave the adapter's files in "
            "their place."
        ) from error


def _open(path: Path, flags: int) -> int:
    root, *folders, name = path.parts
    directory = os.open(root, _ON_THE_WAY)
    try:
        for folder in folders:
            above = directory
            directory = os.open(folder, _ON_THE_WAY | os.O_NOFOLLOW, dir_fd=above)
            os.close(above)
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=directory)
    finally:
        os.close(directory)
