"""Opens and reads checkpoints, and counts what that has cost since the start."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from loramux.errors import AdapterRefusedError, AdapterUnavailableError
from loramux.lora.adapter import Adapter
from loramux.lora.disk_cache.cache import DiskCache
from loramux.lora.fetch.origin import CheckpointOrigin, LocalCheckpoint
from loramux.lora.fetch.shared_work import Abandoned
from loramux.lora.source import FetchProgress
from loramux.observability.distribution import STAGE_SECONDS, Distribution
from loramux.observability.tally import Tally

if TYPE_CHECKING:
    from loramux.lora.weights import AdapterWeights


class LoadOutcome(StrEnum):
    """How a read of an adapter ended."""

    LOADED = "loaded"
    REFUSED = "refused"
    """It cannot be served."""
    UNAVAILABLE = "unavailable"
    """Its source or the disk did not answer."""
    ABANDONED = "abandoned"
    """Nobody waited for it any more."""
    FAILED = "failed"
    """Something that nobody foresaw."""


@dataclass(frozen=True, eq=False)
class CountedRead:
    """Tensors, and when, by :func:`time.monotonic`, each stage of getting them ended."""

    weights: AdapterWeights
    began: float
    fetched: float
    done: float

    def note_stages(self, adapter: Adapter) -> None:
        """Tell the adapter what its read took, and that nobody has used it yet."""
        adapter.is_fresh = True
        adapter.note_stage("fetch", self.began, self.fetched)
        adapter.note_stage("read", self.fetched, self.done)


class CountedReads:
    """Reads on any thread; every figure but ``outcomes`` counts reads that brought tensors.

    Args:
        disk_cache: holds the files of those that come from elsewhere.
    """

    def __init__(self, disk_cache: DiskCache) -> None:
        self._disk_cache = disk_cache
        self._lock = threading.Lock()
        self.reads = Tally()
        self.local_reads = Tally()
        """Those of a directory of this machine, which needs no cache."""
        self.bytes_read = Tally()
        self.outcomes = {outcome: Tally() for outcome in LoadOutcome}
        """How each read ended, those that brought nothing included."""
        self.fetch_seconds = Distribution(STAGE_SECONDS)
        """Of adapters that come from elsewhere, those in the disk cache included."""
        self.read_seconds = Distribution(STAGE_SECONDS)

    def __call__(
        self,
        read: Callable[[LocalCheckpoint], AdapterWeights],
        origin: CheckpointOrigin,
        progress: FetchProgress,
    ) -> CountedRead:
        """Bring an adapter's tensors here, by ``read``. Blocks.

        Raises:
            AdapterRefusedError: it cannot be served.
            AdapterUnavailableError: its source or the disk does not answer.
        """
        try:
            result = self._read(read, origin, progress)
        except BaseException as error:
            self.outcomes[_outcome(error)].add()
            raise
        self._count(result, isinstance(origin, LocalCheckpoint))
        return result

    @property
    def disk_hits(self) -> int:
        """Reads whose files were on this machine already."""
        return self.local_reads.value + self._disk_cache.hits.value

    @property
    def disk_misses(self) -> int:
        """Checkpoints that were asked of their source."""
        return self._disk_cache.misses.value

    @property
    def disk_evictions(self) -> int:
        """Checkpoints that made room in the disk cache."""
        return self._disk_cache.num_evictions

    def _read(
        self,
        read: Callable[[LocalCheckpoint], AdapterWeights],
        origin: CheckpointOrigin,
        progress: FetchProgress,
    ) -> CountedRead:
        began = time.monotonic()
        with origin.opened(self._disk_cache, progress) as checkpoint:
            fetched = time.monotonic()
            weights = read(checkpoint)
        return CountedRead(weights, began, fetched, time.monotonic())

    def _count(self, read: CountedRead, is_local: bool) -> None:
        self.outcomes[LoadOutcome.LOADED].add()
        self.reads.add()
        self.local_reads.add(int(is_local))
        self.bytes_read.add(read.weights.num_bytes)
        with self._lock:
            self.read_seconds.observe(read.done - read.fetched)
            if not is_local:
                self.fetch_seconds.observe(read.fetched - read.began)


def _outcome(error: BaseException) -> LoadOutcome:
    match error:
        case AdapterRefusedError():
            return LoadOutcome.REFUSED
        case AdapterUnavailableError():
            return LoadOutcome.UNAVAILABLE
        case Abandoned():
            return LoadOutcome.ABANDONED
    return LoadOutcome.FAILED
