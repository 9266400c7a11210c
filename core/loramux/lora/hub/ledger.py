"""What loramux itself has brought into the Hugging Face cache, so that it stays within a size.

::

    <directory>/lock           held for moments, around every change of what is below
    <directory>/<key>.json     which files of an adapter loramux fetched

A record is written before its download begins, so a process that is killed leaves nothing that
nobody knows of. Whoever fetches or reads an adapter holds a lock on its record, which ends with
the process. What was in the cache before, or came there by other tools, has no record and is
never touched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from loramux.lora.disk_cache.file_lock import FileLock, is_held
from loramux.lora.hub.record import Record
from loramux.lora.hub.snapshot import Inode, Snapshot

MAX_RECORDS = 1024
"""Bounds what adapters of a few bytes take: files, and time, since each download reads them all."""


class HubLedger:
    """The records in one directory; safe between threads and between processes.

    Args:
        directory: where the records are; it is created when first needed.
        max_bytes: remove what was not used for longest, but nothing in use, to stay within it.
    """

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self._directory = directory
        self._max_bytes = max_bytes

    @contextmanager
    def held(self, snapshot: Snapshot, files: Sequence[str], num_bytes: int) -> Iterator[None]:
        """Keep an adapter's files in the cache, once they are there, until this is left.

        Files that are missing now are taken to be fetched meanwhile. Where they do not all
        arrive, those that did are removed again.

        Args:
            num_bytes: room that they take, 0 if that is not known.

        Raises:
            OSError: the records cannot be written.
        """
        path = self._directory / f"{_key(snapshot, files)}.json"
        is_here = all(map(snapshot.has, files))
        if is_here and not path.exists():
            yield
            return
        lock = self._hold(path, snapshot, files, num_bytes)
        try:
            yield
        finally:
            lock.close()
            if not is_here:
                self.sweep()

    def sweep(self) -> None:
        """Remove what downloads that were broken off have left, and what there is too much of."""
        if not self._directory.is_dir():
            return
        with self._locked():
            self._remove_broken()
            self._evict(self._max_bytes)

    def clear(self) -> bool:
        """Remove all that nobody holds; returns whether there was any."""
        before = len(self._records())
        if before:
            with self._locked():
                self._evict(0)
        return len(self._records()) < before

    def _hold(
        self, path: Path, snapshot: Snapshot, files: Sequence[str], num_bytes: int
    ) -> FileLock:
        """Lock a record, and note in it what is about to be fetched."""
        self._directory.mkdir(0o700, parents=True, exist_ok=True)
        with self._locked():
            if not all(map(snapshot.has, files)):
                self._remove_broken()  # perhaps the beginnings of this very download
            missing = [file for file in files if not snapshot.has(file)]
            lock = FileLock(path)
            lock.wait_shared()
            if missing:
                Record.including(path, snapshot, missing).write(path)
                self._evict(max(self._max_bytes - num_bytes, 0))
            path.touch()
        return lock

    def _remove_broken(self) -> None:
        for path in self._records():
            record = Record.read(path)
            if is_held(path) or (record is not None and record.is_whole):
                continue
            if record is not None:
                if record.snapshot.is_being_downloaded():
                    continue  # what is unfinished may be another's; there will be a next time
                record.remove()
            path.unlink()

    def _evict(self, limit: int) -> None:
        """Remove what was not used for longest and nobody holds, down to ``limit`` bytes.

        And down to ``MAX_RECORDS`` adapters.
        """
        paths = sorted(self._records(), key=lambda path: path.stat().st_mtime_ns)
        records = {path: record for path in paths if (record := Record.read(path)) is not None}
        sizes: dict[Inode, int] = {}  # several commits may share a content
        for record in records.values():
            sizes |= record.sizes()
        total, count = sum(sizes.values()), len(records)
        for path, record in records.items():
            if total <= limit and count <= MAX_RECORDS:
                return
            if not is_held(path):
                total, count = total - record.remove(), count - 1
                path.unlink()

    def _records(self) -> list[Path]:
        return list(self._directory.glob("*.json"))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with FileLock(self._directory / "lock") as lock:
            lock.wait_exclusive()
            yield


def _key(snapshot: Snapshot, files: Sequence[str]) -> str:
    text = "\0".join((str(snapshot.repository), snapshot.commit, *files))
    return hashlib.sha256(text.encode()).hexdigest()
