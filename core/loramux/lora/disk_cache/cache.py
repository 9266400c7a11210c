"""Fetched adapters on the local disk: each content once, bounded, shared by processes."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from loramux import env
from loramux.errors import AdapterUnavailableError
from loramux.logger import get_logger
from loramux.lora.disk_cache.byte_size import read_byte_size
from loramux.lora.disk_cache.cached_checkpoint import CachedCheckpoint
from loramux.lora.disk_cache.directory import CacheDirectory, HeldEntry
from loramux.lora.disk_cache.disk_full import DISK_FULL, is_disk_full
from loramux.lora.disk_cache.entry import seal
from loramux.lora.hub.ledger import HubLedger
from loramux.lora.source import AdapterSource, FetchProgress
from loramux.observability.tally import Tally

log = get_logger(__name__)

DEFAULT_MAX_BYTES = 10 * 2**30
POLL_SECONDS = 0.05


class DiskCache:
    """Fetches adapters once and keeps the latest used.

    Thread-safe, and safe between processes with the same directory. What dead processes left in
    it is removed at the start.

    Args:
        directory: where to keep them, see :mod:`loramux.lora.disk_cache.directory`; it is created
            when first needed.
        max_bytes: evict the least recently used, but none in use, to stay within this size. An
            adapter that does not fit beside those in use is served all the same, and evicted
            when it is closed. What sources keep elsewhere for loramux is bounded by the same size,
            and counted apart.
    """

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._directory = CacheDirectory(directory.resolve())
        self._hub = HubLedger(self._directory.hub, max_bytes)
        self._is_overfull = False
        self.hits = Tally()
        self.misses = Tally()
        self._sweep()

    @classmethod
    def from_environment(cls) -> Self:
        """The cache of ``LORAMUX_ADAPTER_CACHE_DIR`` and ``LORAMUX_ADAPTER_CACHE_SIZE``.

        Without them it is ``~/.cache/loramux/adapters`` (or below ``XDG_CACHE_HOME``), of 10 GiB.

        Raises:
            EnvironmentVariableError: if the size cannot be read.
        """
        chosen = env.read_text("LORAMUX_ADAPTER_CACHE_DIR")
        directory = Path(chosen).expanduser().absolute() if chosen else _default_directory()
        return cls(directory, read_byte_size("LORAMUX_ADAPTER_CACHE_SIZE", DEFAULT_MAX_BYTES))

    @property
    def num_evictions(self) -> int:
        """Adapters that made room for others."""
        return self._directory.evictions.value

    @property
    def directory(self) -> Path:
        """Where it is."""
        return self._directory.path

    def get_or_fetch(self, source: AdapterSource, progress: FetchProgress) -> CachedCheckpoint:
        """The source's checkpoint, fetched unless it is here already. Blocks.

        A source that returns a directory of its own is passed through, and not kept here. While
        another thread or process fetches the same source, this one waits for it and calls
        ``progress(0, 0)``. Whatever ``progress`` raises comes through as it is.

        Raises:
            AdapterUnavailableError: the source could not answer, or the disk is full or fails.
            AdapterRefusedError: what the source brought is no adapter.
        """
        watched = _WatchedProgress(progress)
        try:
            return self._obtain_on_full_disk(source, watched)
        except OSError as error:
            if error is watched.raised:
                raise
            raise self._failure(error, source) from error

    def _obtain_on_full_disk(
        self, source: AdapterSource, progress: _WatchedProgress
    ) -> CachedCheckpoint:
        """Obtain, and once more with an empty cache if the disk is smaller than the cache may be.

        Raises:
            OSError: the disk is full of other things, or fails.
            AdapterUnavailableError: the same, of a source that keeps a directory of its own.
        """
        try:
            return self._obtain(source, progress)
        except (OSError, AdapterUnavailableError) as error:
            if error is progress.raised or not is_disk_full(error):
                raise
            if not (self._make_room(self.max_bytes) | self._hub.clear()):
                raise
        return self._obtain(source, progress)

    def _obtain(self, source: AdapterSource, progress: _WatchedProgress) -> CachedCheckpoint:
        key = hashlib.sha256(f"{source.uri}\0{source.revision}".encode()).hexdigest()
        self._directory.create()
        while True:
            with self._directory.locked() as locked:
                entry = locked.find(key)
                claim = locked.claim(key) if entry is None else None
            if entry is not None:
                self.hits.add()
                return self._checkpoint(entry)
            if claim is not None:
                self.misses.add()
                return self._fetch(key, claim, source, progress)
            progress(0, 0)
            time.sleep(POLL_SECONDS)

    def _fetch(
        self, key: str, claim: HeldEntry, source: AdapterSource, progress: _WatchedProgress
    ) -> CachedCheckpoint:
        directory = claim.path / "fetched"
        with ExitStack() as undo, ExitStack() as hold:
            undo.callback(self._abandon, claim)
            directory.mkdir()
            hold.enter_context(source.held(self._directory.hub, self.max_bytes))
            found = source.fetch(directory, self._making_room(directory, progress))
            if not found.resolve().is_relative_to(claim.path):
                return CachedCheckpoint(found, hold.pop_all().close)
            found.rename(claim.files)
            shutil.rmtree(directory, ignore_errors=True)
            content = seal(claim.path).digest
            with self._directory.locked() as locked:
                locked.link(key, content)
                entry = locked.publish(claim, content)
                if entry.lock is claim.lock:
                    undo.pop_all()
                self._is_overfull = locked.evict(self.max_bytes) > self.max_bytes
            return self._checkpoint(entry)

    def _sweep(self) -> None:
        if not self._directory.incoming.is_dir():
            return
        try:
            with self._directory.locked() as locked:
                locked.sweep()
            self._hub.sweep()
        except OSError as error:  # adapters that need no cache can be served all the same
            log.warning("the adapter cache cannot be cleaned up: %s", error)

    def _abandon(self, claim: HeldEntry) -> None:
        try:
            with self._directory.locked() as locked:
                locked.discard(claim.path)
        except OSError as error:
            log.warning("%s is left until the next start: %s", claim.path, error)
        claim.lock.close()

    def _checkpoint(self, entry: HeldEntry) -> CachedCheckpoint:
        def close() -> None:
            entry.lock.close()
            if self._is_overfull:
                self._make_room(0)

        return CachedCheckpoint(entry.files, close)

    def _making_room(self, directory: Path, progress: FetchProgress) -> FetchProgress:
        """Make room as soon as the size is known, if it is in ``directory`` that it is needed."""
        has_room = False

        def report(bytes_done: int, bytes_total: int) -> None:
            nonlocal has_room
            if bytes_total and not has_room and any(directory.iterdir()):
                has_room = True
                self._make_room(bytes_total)
            progress(bytes_done, bytes_total)

        return report

    def _make_room(self, size: int) -> bool:
        """Evict until ``size`` more bytes fit or all is in use; returns whether any was evicted."""
        with self._directory.locked() as locked:
            left = locked.evict(max(self.max_bytes - size, 0))
        self._is_overfull = left > self.max_bytes
        return bool(locked.trash)

    def _failure(self, error: OSError, source: AdapterSource) -> AdapterUnavailableError:
        place = f"the adapter cache {self.directory}"
        if error.errno in DISK_FULL:
            return AdapterUnavailableError(
                f"{source.uri} cannot be stored, because the disk of {place} is full; free space "
                "on it, or set LORAMUX_ADAPTER_CACHE_DIR to a directory on a larger one.",
                "it cannot be stored, because the disk of the adapter cache is full; try again "
                "later.",
            )
        reason = error.strerror or type(error).__name__
        if isinstance(error, (ConnectionError, TimeoutError)):
            return AdapterUnavailableError.at(
                source.uri, f"the adapter cannot be read ({reason}); try again."
            )
        return AdapterUnavailableError(
            f"{source.uri} cannot be stored in {place} ({reason}); make it writable, or set "
            "LORAMUX_ADAPTER_CACHE_DIR to another directory.",
            f"it cannot be stored in the adapter cache ({reason}); try again later.",
        )


class _WatchedProgress:
    """Passes progress on, and remembers what it raised, which may be an OSError like a disk's."""

    def __init__(self, progress: FetchProgress) -> None:
        self.raised: BaseException | None = None
        self._progress = progress

    def __call__(self, bytes_done: int, bytes_total: int) -> None:
        try:
            self._progress(bytes_done, bytes_total)
        except BaseException as error:
            self.raised = error
            raise


def _default_directory() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return (cache if cache.is_absolute() else Path.home() / ".cache") / "loramux" / "adapters"
