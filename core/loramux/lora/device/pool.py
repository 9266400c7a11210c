"""Adapters in the memory of the device that computes: placing, holding, evicting."""

from __future__ import annotations

import queue
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from loramux.lora.adapter import Adapter
from loramux.lora.weights import AdapterWeights, LowRankPair


@dataclass(frozen=True, eq=False)
class ResidentPair:
    """One site's update in the layout the kernels read.

    Shapes:
        a: ``[in_features, rank]``; b: ``[rank, out_features]``.
    """

    a: Tensor
    b: Tensor
    scaling: float

    @property
    def rank(self) -> int:
        return self.b.shape[0]


@dataclass(eq=False)
class ResidentAdapter:
    """An adapter on the device, at its true ranks, with the number of sequences running on it."""

    adapter: Adapter
    pairs: Mapping[str, ResidentPair]
    slot: int | None = None
    """Its row in the table that kernels read, where there is one."""
    ready: torch.cuda.Event | None = None
    references: int = 0
    is_retired: bool = False
    """To be freed as soon as no sequence runs on it."""

    @property
    def digest(self) -> str:
        return self.adapter.digest

    def is_ready(self) -> bool:
        """Whether its copies have arrived; asked between steps, so that no step waits."""
        return self.ready is None or bool(self.ready.query())  # type: ignore[no-untyped-call]


@dataclass
class DevicePool:
    """Owner of "place": copies adapters to the device on a thread of its own.

    All methods but the copying itself belong to the engine's thread. ``capacity`` counts
    adapters; one that a running sequence holds is never evicted.
    """

    fetch_weights: Callable[[Adapter], Future[AdapterWeights]]
    """Brings tensors to the host, on threads of its own where they are not there."""
    device: torch.device
    dtype: torch.dtype
    capacity: int
    on_change: Callable[[], None] = lambda: None
    """Called from other threads when there is something for ``collect``."""
    on_evict: Callable[[ResidentAdapter], None] = lambda resident: None
    """Called on the engine's thread when an adapter leaves the device."""

    _resident: OrderedDict[str, ResidentAdapter] = field(default_factory=OrderedDict)
    _placing: set[str] = field(default_factory=set)
    _failures: dict[str, Exception] = field(default_factory=dict)
    _arrived: queue.SimpleQueue[tuple[Adapter, ResidentAdapter | BaseException]] = field(
        default_factory=queue.SimpleQueue
    )
    _to_retire: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loramux-place")
        self._stream = _copy_stream(self.device)

    @property
    def resident_digests(self) -> frozenset[str]:
        return frozenset(self._resident)

    def get(self, adapter: Adapter) -> ResidentAdapter | None:
        """The adapter if it is on the device and complete."""
        resident = self._resident.get(adapter.digest)
        if resident is None or not resident.is_ready():
            return None
        self._resident.move_to_end(adapter.digest)
        return resident

    def prefetch(self, adapter: Adapter, keep: Collection[str] = ()) -> bool:
        """Start placing an adapter if it is not here; False if every place is taken.

        ``keep`` are digests not to be evicted for it, beside those that sequences run on. An
        adapter whose failure nobody has taken yet is not tried again: those who wait for it are
        about to be told.
        """
        digest = adapter.digest
        if digest in self._resident or digest in self._placing or digest in self._failures:
            return True
        if not self._make_room(keep):
            return False
        self._placing.add(digest)
        fetched = self.fetch_weights(adapter)
        fetched.add_done_callback(lambda weights: self._place_later(adapter, weights))
        return True

    def collect(self) -> None:
        """Take in what other threads have finished or asked for; called between steps."""
        while not self._to_retire.empty():
            self._retire(self._to_retire.get())
        while not self._arrived.empty():
            adapter, outcome = self._arrived.get()
            self._placing.discard(adapter.digest)
            if isinstance(outcome, ResidentAdapter):
                self._hand_to_main_stream(outcome)
                self._resident[adapter.digest] = outcome
            else:
                self._failures[adapter.digest] = _as_exception(outcome)

    def take_failures(self) -> dict[str, Exception]:
        """Placements that failed since last asked, by digest; the next request may try again."""
        failures, self._failures = self._failures, {}
        return failures

    def hold(self, adapter: Adapter) -> None:
        """Count one more sequence that runs on a resident adapter."""
        resident = self._resident[adapter.digest]
        resident.references += 1

    def let_go(self, adapter: Adapter) -> None:
        """Count one sequence less, and free the adapter if it was waiting for that."""
        resident = self._resident[adapter.digest]
        resident.references -= 1
        self._free_if_retired(resident)

    def retire(self, digest: str) -> None:
        """Free an adapter's memory once no sequence runs on it; may be called on any thread."""
        self._to_retire.put(digest)
        self.on_change()

    def shutdown(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _retire(self, digest: str) -> None:
        resident = self._resident.get(digest)
        if resident is not None:
            resident.is_retired = True
            self._free_if_retired(resident)

    def _free_if_retired(self, resident: ResidentAdapter) -> None:
        if resident.is_retired and not resident.references:
            self._evict(resident.digest)

    def _evict(self, digest: str) -> None:
        self.on_evict(self._resident.pop(digest))

    def _make_room(self, keep: Collection[str]) -> bool:
        """Evict the least recently used adapters that nobody needs until one more fits."""
        idle = [
            digest
            for digest, held in self._resident.items()
            if not held.references and digest not in keep
        ]
        while len(self._resident) + len(self._placing) >= self.capacity:
            if not idle:
                return False
            self._evict(idle.pop(0))
        return True

    def _place_later(self, adapter: Adapter, weights: Future[AdapterWeights]) -> None:
        try:
            self._thread.submit(self._place, adapter, weights)
        except RuntimeError as error:  # the pool has been shut down
            self._arrived.put((adapter, error))

    def _place(self, adapter: Adapter, weights: Future[AdapterWeights]) -> None:
        """Runs on the placing thread; every outcome is reported to the engine's thread."""
        outcome: ResidentAdapter | BaseException
        try:
            outcome = self._copy(adapter, weights.result())
        except BaseException as error:  # whatever is not reported would be waited for for ever
            outcome = error
        self._arrived.put((adapter, outcome))
        self.on_change()

    def _copy(self, adapter: Adapter, weights: AdapterWeights) -> ResidentAdapter:
        started = time.perf_counter()
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            pairs = {name: self._to_device(pair) for name, pair in weights.pairs.items()}
            ready = self._stream.record_event() if self._stream is not None else None
        adapter.load_seconds["place"] = time.perf_counter() - started
        return ResidentAdapter(adapter, pairs, ready)

    def _hand_to_main_stream(self, resident: ResidentAdapter) -> None:
        """Tell the allocator that another stream than the one that allocated reads the tensors."""
        if self._stream is None:
            return
        reader = torch.cuda.current_stream(self.device)
        for pair in resident.pairs.values():
            pair.a.record_stream(reader)
            pair.b.record_stream(reader)

    def _to_device(self, pair: LowRankPair) -> ResidentPair:
        """Cast and transpose; an embedding keeps ``[vocabulary, rank]``, which is its A too."""
        a = pair.a.to(self.device, self.dtype).t().contiguous()
        b = pair.b.to(self.device, self.dtype).t().contiguous()
        return ResidentPair(a, b, pair.scaling)


def _copy_stream(device: torch.device) -> torch.cuda.Stream | None:
    """A stream beside the one that computes, so that copies hold no step up."""
    if device.type != "cuda":
        return None
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _as_exception(error: BaseException) -> Exception:
    """Something that a request can fail with, also where a library panicked."""
    return error if isinstance(error, Exception) else RuntimeError(repr(error))
