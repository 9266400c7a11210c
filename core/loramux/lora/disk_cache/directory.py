"""The disk cache's directory, shared by processes.

::

    <directory>/lock                  held for moments, around every change of what is below
    <directory>/adapters/<content>/   whole adapters, named by the digest of their files
    <directory>/sources/<key>         links from what was asked for to what it holds
    <directory>/incoming/<key>/       adapters being fetched; locked by whoever fetches
    <directory>/hub/                  what was fetched into the Hugging Face cache; see HubLedger

An adapter appears by one rename, after its files are on the disk. Whoever uses or fetches one
holds a lock on its manifest, which ends with the process; so nothing that is in use is evicted,
and what a killed process left behind is known as such. All of it has to be on one file system,
with working ``flock``.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loramux.logger import get_logger
from loramux.lora.disk_cache.entry import FILES, MANIFEST, read_manifest, sync
from loramux.lora.disk_cache.file_lock import FileLock, is_held
from loramux.observability.tally import Tally

log = get_logger(__name__)

MAX_ADAPTERS = 16384
"""Bounds what tiny ones take: directories, and time, since all are looked at in each fetch."""

MAX_SOURCES = 8192
"""Bounds the links; one that is dropped costs a download that is then found to be known."""

_TRASH = "trash-"


@dataclass(frozen=True)
class HeldEntry:
    """An entry, or the beginnings of one, that nobody removes while its lock is open."""

    path: Path
    lock: FileLock

    @property
    def files(self) -> Path:
        return self.path / FILES


class CacheDirectory:
    """Where the directory is; ``locked`` gives access to what is in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.adapters = path / "adapters"
        self.sources = path / "sources"
        self.incoming = path / "incoming"
        self.hub = path / "hub"
        self.evictions = Tally()
        self.sizes: dict[str, int] = {}
        """Of the adapters that were there at the latest look; a content's size never changes."""

    def create(self) -> None:
        """Make what is missing of it, for this user alone.

        Raises:
            OSError: if that is not possible.
        """
        for directory in (self.path, self.adapters, self.sources, self.incoming):
            directory.mkdir(0o700, parents=True, exist_ok=True)

    @contextmanager
    def locked(self) -> Iterator[LockedDirectory]:
        """Look at it and change it while nobody else does.

        What was discarded is deleted only afterwards, since that takes its time.
        """
        directory = LockedDirectory(self)
        try:
            with FileLock(self.path / "lock") as lock:
                lock.wait_exclusive()
                yield directory
        finally:
            for path in directory.trash:
                shutil.rmtree(path, ignore_errors=True)


class LockedDirectory:
    """The directory while its lock is held, which must be but for moments."""

    def __init__(self, directory: CacheDirectory) -> None:
        self._directory = directory
        self.trash: list[Path] = []

    def find(self, key: str) -> HeldEntry | None:
        """The adapter that a source is known to hold."""
        try:
            content = Path(os.readlink(self._directory.sources / key)).name
        except FileNotFoundError:
            return None
        return self.open(content)

    def open(self, content: str) -> HeldEntry | None:
        """Hold an adapter and note its use; one that is damaged is thrown away."""
        entry = self._directory.adapters / content
        if not entry.exists():
            return None
        manifest = read_manifest(entry)
        if manifest is None or not manifest.describes(entry):
            log.warning("the cached adapter %s is damaged and thrown away", entry)
            self.discard(entry)
            return None
        os.utime(entry / MANIFEST)
        lock = FileLock(entry / MANIFEST)
        lock.wait_shared()
        return HeldEntry(entry, lock)

    def claim(self, key: str) -> HeldEntry | None:
        """A place to fetch to, for one at a time; None while another has it."""
        path = self._directory.incoming / key
        if path.exists():
            if is_held(path / MANIFEST):
                return None
            self.discard(path)
        path.mkdir()
        lock = FileLock(path / MANIFEST)
        lock.wait_shared()
        return HeldEntry(path, lock)

    def publish(self, fetched: HeldEntry, content: str) -> HeldEntry:
        """Let a whole adapter appear under its content, and go on holding it.

        ``fetched`` is left where it is if the same content has come from elsewhere.
        """
        known = self.open(content)
        if known is not None:
            return known
        path = self._directory.adapters / content
        fetched.path.rename(path)
        sync(self._directory.adapters)
        return HeldEntry(path, fetched.lock)

    def link(self, key: str, content: str) -> None:
        """Note what a source holds."""
        link = self._directory.sources / key
        link.unlink(missing_ok=True)
        link.symlink_to(Path("..", self._directory.adapters.name, content))

    def evict(self, limit: int) -> int:
        """Discard what was not used for longest and is not held, down to ``limit`` bytes.

        Returns:
            The number of bytes that are left.
        """
        sizes = self._sizes()
        total, count = sum(sizes.values()), len(sizes)
        most = count if count <= MAX_ADAPTERS else _fewer(MAX_ADAPTERS)
        for name in self._least_used_first(sizes) if total > limit or count > most else ():
            if total <= limit and count <= most:
                break
            path = self._directory.adapters / name
            if not is_held(path / MANIFEST):
                self.discard(path)
                self._directory.evictions.add()
                total, count = total - sizes[name], count - 1
        if self.trash or len(os.listdir(self._directory.sources)) > MAX_SOURCES:
            self._drop_links()
        return total

    def _sizes(self) -> dict[str, int]:
        """Bytes of each adapter by its content, 0 of one that is broken."""
        known = self._directory.sizes
        names = os.listdir(self._directory.adapters)
        sizes = {name: known.get(name) or self._size(name) for name in names}
        self._directory.sizes = sizes
        return sizes

    def _size(self, name: str) -> int:
        manifest = read_manifest(self._directory.adapters / name)
        return 0 if manifest is None else manifest.size

    def _least_used_first(self, sizes: dict[str, int]) -> list[str]:
        """What was not used for longest goes first, and what is broken before that."""
        return sorted(sizes, key=lambda name: self._last_use(name) if sizes[name] else 0)

    def _last_use(self, name: str) -> int:
        try:
            return os.stat(self._directory.adapters / name / MANIFEST).st_mtime_ns
        except FileNotFoundError:
            return 0

    def discard(self, path: Path) -> None:
        """Take a directory away by one rename, for deleting it may take its time."""
        destination = self._directory.incoming / f"{_TRASH}{uuid.uuid4().hex}"
        path.rename(destination)
        self.trash.append(destination)

    def sweep(self) -> None:
        """Discard what processes that are gone left half done."""
        for path in self._directory.incoming.iterdir():
            if path.name.startswith(_TRASH):
                self.trash.append(path)
            elif not is_held(path / MANIFEST):
                self.discard(path)

    def _drop_links(self) -> None:
        """Forget sources whose adapter is gone, and the oldest beyond a number."""
        links = sorted(self._directory.sources.iterdir(), key=lambda link: link.lstat().st_mtime_ns)
        most = len(links) if len(links) <= MAX_SOURCES else _fewer(MAX_SOURCES)
        for position, link in enumerate(reversed(links)):
            if position >= most or not link.exists():
                link.unlink()


def _fewer(most: int) -> int:
    """So many that the next ones fit for a while: to choose among all takes its time."""
    return most * 7 // 8
