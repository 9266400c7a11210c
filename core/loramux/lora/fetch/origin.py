"""Where an adapter was found, and how its files are opened again whenever they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loramux.lora.disk_cache.cache import DiskCache
from loramux.lora.source import AdapterSource, FetchProgress


@dataclass(frozen=True)
class SourceRevision:
    """What tells that a local checkpoint may have changed, without reading it.

    One ``(name, inode, size, mtime_ns)`` for each file. Equal revisions are taken for equal
    bytes; after any read, the digest decides.
    """

    files: tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True)
class LocalCheckpoint:
    """A checkpoint in a directory of this machine, as it was when somebody looked."""

    directory: Path
    revision: SourceRevision
    base_model_name: str | None = None
    """The base model the requester declared it for, instead of what its configuration says."""
    allowed_directories: tuple[str, ...] = ()
    """Where given, its files have to lie in one of these when they are opened."""

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return str(self.directory)

    @property
    def address(self) -> str:
        """Where it is, whatever lies there by now."""
        return str(self.directory)

    @contextmanager
    def opened(self, cache: DiskCache, progress: FetchProgress) -> Iterator[LocalCheckpoint]:
        """The checkpoint itself: its files are here."""
        yield self


@dataclass(frozen=True)
class RemoteCheckpoint:
    """A checkpoint that is fetched into the disk cache, now and whenever it has left it."""

    source: AdapterSource
    base_model_name: str | None = None

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return f"{self.source.uri} at {self.source.revision}"

    @property
    def address(self) -> str:
        """Where it is, whatever lies there by now."""
        return self.source.uri

    @contextmanager
    def opened(self, cache: DiskCache, progress: FetchProgress) -> Iterator[LocalCheckpoint]:
        """The checkpoint's files on this machine, which stay there until this is left."""
        with cache.get_or_fetch(self.source, progress) as cached:
            yield LocalCheckpoint(cached.directory, SourceRevision(()), self.base_model_name)


CheckpointOrigin = LocalCheckpoint | RemoteCheckpoint
