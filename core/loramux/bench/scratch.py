"""A place for models and adapters that are gone afterwards."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MEMORY = Path("/dev/shm")


@contextmanager
def scratch_directory(given: Path | None, num_bytes: int) -> Iterator[Path]:
    """A new directory below ``given``, else in memory if so many bytes take half of what is free.

    Files in memory are what files in the page cache are, and cannot be pushed out of it.
    """
    parent = given
    if parent is None and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 2 * num_bytes:
        parent = MEMORY
    with tempfile.TemporaryDirectory(prefix="loramux-bench-", dir=parent) as directory:
        yield Path(directory)
