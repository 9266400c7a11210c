"""A checkpoint's files on this machine while somebody reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self


class CachedCheckpoint:
    """A directory with a checkpoint; it stays as it is until this is closed.

    Use it as a context manager, and read the files inside of it.
    """

    def __init__(self, directory: Path, close: Callable[[], None] = lambda: None) -> None:
        self.directory = directory
        self.close = close
        """Let the cache evict it; may be called again."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
