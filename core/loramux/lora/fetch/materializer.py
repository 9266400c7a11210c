"""Brings adapters into host memory, off the engine's thread and off the event loop."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from loramux.errors import AdapterFilesMissingError, AdapterUnavailableError
from loramux.logger import get_logger
from loramux.lora.adapter import Adapter, AdapterInfo, Tier
from loramux.lora.checkpoint.read_threads import read_threads
from loramux.lora.disk_cache.cache import DiskCache
from loramux.lora.fetch.chained import chain, completed
from loramux.lora.fetch.counted_reads import CountedReads
from loramux.lora.fetch.host_cache import HostCache
from loramux.lora.fetch.known_adapters import KnownAdapters, put_bounded
from loramux.lora.fetch.locate import locate
from loramux.lora.fetch.origin import CheckpointOrigin, LocalCheckpoint, RemoteCheckpoint
from loramux.lora.fetch.shared_work import Abandoned, SharedWork
from loramux.lora.request import LoRARequest
from loramux.lora.resolve.deadline import resolve_timeout
from loramux.lora.source import AdapterSource, FetchProgress
from loramux.lora.weights import AdapterWeights
from loramux.observability.tally import Tally

log = get_logger(__name__)

ReadCheckpoint = Callable[[LocalCheckpoint], AdapterWeights]
"""Reads and validates; raises AdapterRefusedError or AdapterUnavailableError."""

MAX_LOOKING = 16
"""Look-ups of where adapters are at the same time; each is a few calls of the file system."""


class Materializer:
    """Owner of "fetch" and "read": from a LoRA request to validated tensors on the host.

    Those who ask for one name at one source share one read, failures included; different sources
    are read in parallel, at most ``max_concurrent`` at a time. The work of a source whose every
    requester has gone is dropped, and nothing of it is kept.

    Args:
        on_shutdown: called last, to end what ``read`` needs.
    """

    def __init__(
        self,
        read: ReadCheckpoint,
        host_cache_size: int,
        max_concurrent: int = 8,
        disk_cache: DiskCache | None = None,
        on_shutdown: Callable[[], None] = lambda: None,
    ) -> None:
        read_threads()  # a variable that cannot be read is told here and not by the first request
        self._on_shutdown = on_shutdown
        self.on_replaced: Callable[[Adapter], None] = lambda adapter: None
        """Called, on any thread, with an adapter whose last name now means another."""
        self._read = read
        self.reads = CountedReads(disk_cache or DiskCache.from_environment())
        self.host_cache = HostCache(host_cache_size)
        self.host_hits = Tally()
        """Placements whose tensors had stayed here; the one a read was made for is none."""
        self._lookers = ThreadPoolExecutor(MAX_LOOKING, thread_name_prefix="loramux-locate")
        self._readers = ThreadPoolExecutor(max_concurrent, thread_name_prefix="loramux-adapter")
        self._locating: SharedWork[Hashable, CheckpointOrigin] = SharedWork(self._lookers)
        self._reading: SharedWork[Hashable, Adapter] = SharedWork(self._readers)
        self._rereading: SharedWork[str, AdapterWeights] = SharedWork(self._readers)
        self._known = KnownAdapters()
        self._lock = threading.Lock()
        self._hub_sources: OrderedDict[str, AdapterSource] = OrderedDict()
        """By the path they were asked for under."""

    def load(self, request: LoRARequest) -> Future[Adapter]:
        """Make the adapter known, reading it the first time; cancel the future to leave.

        The future raises AdapterRefusedError or AdapterUnavailableError.
        """
        # A reload shares nothing: a read that is under way may have seen the old bytes.
        share = object() if request.load_inplace else None
        key = (replace(request, lora_int_id=1), share)
        located = self._locating.join(key, lambda abandoned: self._locate(request))
        return chain(located, lambda origin: self._load(request, origin, share))

    def weights_later(self, adapter: Adapter) -> Future[AdapterWeights]:
        """``weights`` without waiting: at once from the host cache, else read by the readers."""
        weights = self.host_cache.get(adapter.digest)
        is_fresh, adapter.is_fresh = adapter.is_fresh, False
        if weights is not None:
            if not is_fresh:
                self.host_hits.add()
            return completed(weights)
        return self._rereading.join(adapter.digest, lambda abandoned: self.weights(adapter))

    def weights(self, adapter: Adapter) -> AdapterWeights:
        """Tensors of a known adapter, read again if they have left the host cache. Blocks.

        Raises:
            AdapterRefusedError: its files are broken.
            AdapterUnavailableError: its files are gone, or hold another adapter by now, or cannot
                be read.
        """
        weights = self.host_cache.get(adapter.digest)
        if weights is not None:
            return weights
        try:
            weights = self.reads(self._read, adapter.origin, _within(resolve_timeout())).weights
        except AdapterFilesMissingError as error:
            raise AdapterUnavailableError.at(
                adapter.origin.place,
                "the adapter's files went while it was waited for; ask again to see if it is back.",
            ) from error
        if weights.digest != adapter.digest:
            raise AdapterUnavailableError.at(
                adapter.origin.place,
                "the adapter changed while it was waited for; ask again to get the new one.",
            )
        self.host_cache.put(weights)
        return weights

    def infos(self, resident_digests: frozenset[str] = frozenset()) -> list[AdapterInfo]:
        """Adapters by the names they were asked for under, the latest last."""
        named = self._known.named()
        return [self.info(name, adapter, resident_digests) for name, adapter in named]

    def adapter(self, digest: str) -> Adapter | None:
        """The adapter of these bytes, if anybody knows it."""
        return self._known.of(digest)

    def forget(self, name: str) -> list[Adapter]:
        """Drop a name; returns its adapters, gone from the host, that no other name needs."""
        adapters = self._known.forget(name)
        for adapter in adapters:
            self.host_cache.discard(adapter.digest)
        return adapters

    @property
    def num_joins(self) -> int:
        """Requests that joined a read which was under way for another."""
        return self._reading.num_joins + self._rereading.num_joins

    @property
    def num_under_way(self) -> int:
        """Searches and reads that somebody waits for."""
        return len(self._locating) + len(self._reading) + len(self._rereading)

    def shutdown(self) -> None:
        """Begin no more reads, and end what they need."""
        self._lookers.shutdown(wait=False, cancel_futures=True)
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._on_shutdown()

    def _load(
        self, request: LoRARequest, origin: CheckpointOrigin, share: object
    ) -> Future[Adapter]:
        """The adapter at an origin; what is known already never queues behind what is read."""
        known = None if request.load_inplace else self._known.at(origin)
        if known is not None:
            return completed(self._remember(request, origin, known))
        read = self._reading.join(
            (origin, share), lambda abandoned: self._read_new(request, origin, abandoned)
        )
        return chain(read, lambda adapter: completed(self._remember(request, origin, adapter)))

    def _locate(self, request: LoRARequest) -> CheckpointOrigin:
        """Where the adapter is; a path on the Hub keeps the commit it was first found at.

        Otherwise every request for it would ask the Hub; ``load_inplace`` asks again.
        """
        source = self._hub_sources.get(request.lora_path)
        if source is not None and request.source is None and not request.load_inplace:
            return RemoteCheckpoint(source, request.base_model_name)
        origin = locate(request)
        if isinstance(origin, RemoteCheckpoint) and request.source is None:
            with self._lock:
                put_bounded(self._hub_sources, request.lora_path, origin.source)
        return origin

    def _read_new(
        self, request: LoRARequest, origin: CheckpointOrigin, abandoned: Callable[[], bool]
    ) -> Adapter:
        """Fetch what is not here, read and check it, unless nobody waits for it any more."""

        def progress(bytes_done: int, bytes_total: int) -> None:
            if abandoned():
                raise Abandoned

        # Another read may have ended between the requester's look and its joining this one.
        known = None if request.load_inplace else self._known.at(origin)
        if known is not None:
            return known
        read = self.reads(self._read, origin, progress)
        if abandoned():
            raise Abandoned
        adapter = self._known.adopt(origin, read.weights)  # before anybody else starts to read
        self.host_cache.put(read.weights)
        read.note_stages(adapter)
        _log_load(request, adapter)
        return adapter

    def _remember(
        self, request: LoRARequest, origin: CheckpointOrigin, adapter: Adapter
    ) -> Adapter:
        """Note under which name and where the adapter was found; tell of what it replaces."""
        for replaced in self._known.name(
            request.lora_name, origin, adapter, is_the_only=request.load_inplace
        ):
            self.on_replaced(replaced)
        return adapter

    def info(self, name: str, adapter: Adapter, resident: frozenset[str]) -> AdapterInfo:
        """An adapter as it is shown to people, under one of its names."""
        return AdapterInfo(
            name=name,
            digest=adapter.digest,
            path=adapter.origin.place,
            rank=adapter.max_rank,
            num_bytes=adapter.num_bytes,
            tier=self._tier(adapter, resident),
            load_seconds=dict(adapter.load_seconds),
        )

    def _tier(self, adapter: Adapter, resident: frozenset[str]) -> Tier:
        if adapter.digest in resident:
            return Tier.DEVICE
        return Tier.HOST if adapter.digest in self.host_cache else Tier.DISK


def _within(seconds: float) -> FetchProgress:
    """Progress of a fetch that sequences wait for, and for so long only."""
    deadline = time.monotonic() + seconds

    def progress(bytes_done: int, bytes_total: int) -> None:
        if time.monotonic() > deadline:
            raise AdapterUnavailableError(
                f"The adapter could not be fetched again within {seconds:g} s; try again later."
            )

    return progress


def _log_load(request: LoRARequest, adapter: Adapter) -> None:
    log.info(
        "adapter %r: %.1f MB, rank %d, fetched in %.0f ms and read in %.0f ms from %s (digest %s)",
        request.lora_name,
        adapter.num_bytes / 1e6,
        adapter.max_rank,
        1e3 * adapter.load_seconds["fetch"],
        1e3 * adapter.load_seconds["read"],
        adapter.origin.place,
        adapter.digest[:12],
    )
