"""Adapters in the memory of the device that computes: placing, holding, evicting."""

from __future__ import annotations

import queue
from collections import OrderedDict
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass, field

from loramux.errors import AdapterUnavailableError
from loramux.lora.adapter import Adapter
from loramux.lora.device.coming import ComingAdapter, ComingAdapters
from loramux.lora.device.orders import PlacementOrders
from loramux.lora.device.placing import PlacingAdapters
from loramux.lora.device.resident import ResidentAdapter, ResidentPair
from loramux.lora.device.store import AdapterStore
from loramux.lora.weights import AdapterWeights
from loramux.observability.distribution import STAGE_SECONDS, Distribution

__all__ = ["DevicePool", "ResidentAdapter", "ResidentPair"]


@dataclass
class DevicePool:
    """Owner of "place": brings adapters to the device on threads of its own.

    All other methods belong to the engine's thread. How much fits, the store decides; the least
    recently used adapters make room, never one that a sequence holds.
    """

    fetch_weights: Callable[[Adapter], Future[AdapterWeights]]
    """Brings tensors to the host, on threads of its own where they are not there."""
    store: AdapterStore
    on_change: Callable[[], None] = lambda: None
    """Called from other threads when there is something for ``collect`` or ``prefetch``."""
    on_evict: Callable[[ResidentAdapter], None] = lambda resident: None
    """Called on the engine's thread when an adapter leaves the device."""
    num_hits: int = 0
    """New requests whose adapter was on the device already."""
    num_misses: int = 0
    num_evictions: int = 0
    pinned: frozenset[str] = frozenset()
    """Digests of adapters that never make room for others."""
    place_seconds: Distribution = field(default_factory=lambda: Distribution(STAGE_SECONDS))

    _resident: OrderedDict[str, ResidentAdapter] = field(default_factory=OrderedDict)
    _failures: dict[str, Exception] = field(default_factory=dict)
    _wanted: set[str] = field(default_factory=set)
    """Digests asked for since the last ``collect``."""
    _to_mark: queue.SimpleQueue[tuple[str, bool]] = field(default_factory=queue.SimpleQueue)
    """Digests in the order in which they were retired (True), or asked for again (False)."""
    _orders: PlacementOrders = field(default_factory=PlacementOrders)

    def __post_init__(self) -> None:
        self._coming = ComingAdapters(self.fetch_weights, self._tell)
        self._placing = PlacingAdapters(self.store, self._tell)

    @property
    def resident_digests(self) -> frozenset[str]:
        return frozenset(self._resident)

    def get(self, adapter: Adapter) -> ResidentAdapter | None:
        """The adapter if it is on the device and complete."""
        resident = self._resident.get(adapter.digest)
        if resident is not None:
            self._resident.move_to_end(adapter.digest)
        return resident

    def count_request(self, adapter: Adapter) -> None:
        """Note whether a new request finds its adapter here."""
        if adapter.digest in self._resident:
            self.num_hits += 1
        else:
            self.num_misses += 1

    def prefetch(self, adapter: Adapter, keep: Collection[str] = ()) -> bool:
        """Bring an adapter nearer that is not here; False if there is no room for it now.

        Called for every waiting adapter before each step: first its tensors come to the host,
        then, once their sizes are known, it gets room on the device and is placed.

        ``keep`` are digests not to be evicted for it, beside those that sequences hold. An
        adapter whose failure nobody has taken yet is not tried again: those who wait for it are
        about to be told.
        """
        digest = adapter.digest
        self._wanted.add(digest)
        if digest in self._resident or digest in self._placing or digest in self._failures:
            return True
        coming = self._coming.ask_for(adapter, self._wanted)
        if coming is None:
            return False
        return not coming.weights.done() or self._give_room(coming, keep)

    def note_waiting(self, adapter: Adapter) -> None:
        """Sequences wait for an adapter that is not to be brought nearer now, nor given up."""
        self._wanted.add(adapter.digest)

    def collect(self) -> None:
        """Take in what other threads have finished or asked for; called between steps."""
        while not self._to_mark.empty():
            self._mark(*self._to_mark.get())
        self._free_unwanted()
        for resident, failure in self._placing.take_arrivals():
            self._take_in(resident, failure)
        self._wanted.clear()
        self._orders.advance(self)

    def order(self, adapter: Adapter) -> Future[None]:
        """Bring an adapter here for no sequence's sake; may be called on any thread.

        One that was retired, and is known again, stays when the sequences of before are over.
        """
        self._to_mark.put((adapter.digest, False))
        order = self._orders.place(adapter)
        self.on_change()
        return order

    def references(self) -> dict[str, int]:
        """Sequences that hold each adapter here, by digest; may be called on any thread."""
        return {digest: held.references for digest, held in list(self._resident.items())}

    def take_failures(self) -> dict[str, Exception]:
        """Placements that failed since last asked, by digest; the next request may try again.

        A failure is forgotten that nobody has taken when nobody asks for the adapter any more.
        """
        failures, self._failures = self._failures, {}
        return failures

    def take_failure(self, adapter: Adapter) -> Exception | None:
        """Why one adapter's placement failed; the next request for it tries again."""
        return self._failures.pop(adapter.digest, None)

    def hold(self, adapter: Adapter) -> None:
        """Count one more sequence that needs a resident adapter to stay."""
        self._resident[adapter.digest].references += 1

    def let_go(self, adapter: Adapter) -> None:
        """Count one sequence less, and free the adapter if it was waiting for that."""
        resident = self._resident[adapter.digest]
        resident.references -= 1
        self._free_if_retired(resident)

    def retire(self, digest: str) -> None:
        """Free an adapter's memory once no sequence needs it; may be called on any thread."""
        self._to_mark.put((digest, True))
        self.on_change()

    def shutdown(self) -> None:
        """Start no more placements; one that is under way ends by itself.

        Called when no step runs any more; who waits for an order is told.
        """
        self._orders.close()
        self._placing.shutdown()
        self.store.shutdown()

    def _tell(self) -> None:
        """On any thread; ``on_change`` may have been set since the pool was made."""
        self.on_change()

    def _give_room(self, coming: ComingAdapter, keep: Collection[str]) -> bool:
        """Start placing an adapter whose tensors are on the host; False if there is no room."""
        digest = coming.adapter.digest
        try:
            weights = coming.weights.result()
            if coming.resident is None:
                coming.resident = self.store.prepare(coming.adapter, weights)
            has_room = self._make_room(coming.resident, keep)
        except BaseException as error:  # libraries that panic on other threads raise those
            self._failures[digest] = _as_exception(error)
            self._coming.remove(digest)
            return True
        if not has_room:
            return False
        self._coming.remove(digest)
        coming.resident.is_retired = coming.is_retired
        self._placing.begin(coming.resident, weights)
        return True

    def _make_room(self, resident: ResidentAdapter, keep: Collection[str]) -> bool:
        """Evict the least recently used adapters that nobody needs until this one fits.

        None is evicted where all of them would not be enough.
        """
        if self.store.reserve(resident):
            return True
        idle = [
            held
            for digest, held in self._resident.items()
            if not held.references and digest not in keep and digest not in self.pinned
        ]
        if not self.store.fits_without(resident, idle):
            self._check_pins_leave_room(resident)
            return False
        while not self.store.reserve(resident):
            if not idle:
                return False
            self._evict(idle.pop(0).digest)
            self.num_evictions += 1
        return True

    def _check_pins_leave_room(self, resident: ResidentAdapter) -> None:
        """Raises AdapterUnavailableError if there is no room even once nothing runs any more.

        Nobody who came after it would be brought here while it is waited for.
        """
        others = [*self._resident.values(), *self._placing.values()]
        leaving = [other for other in others if other.digest not in self.pinned]
        num_pinned = len(others) - len(leaving)
        if num_pinned and not self.store.fits_without(resident, leaving):
            raise AdapterUnavailableError.at(
                resident.adapter.origin.place,
                f"there is no room for the adapter on the device beside {num_pinned} pinned; "
                "unpin one, or raise lora_memory_bytes.",
            )

    def _take_in(self, resident: ResidentAdapter, failure: BaseException | None) -> None:
        digest = resident.digest
        if failure is not None:
            self.store.free(resident)
            self._failures[digest] = _as_exception(failure)
        elif resident.is_retired and digest not in self._wanted:
            self.store.free(resident)
        else:
            self.store.publish(resident)
            self.place_seconds.observe(resident.adapter.load_seconds["place"])
            self._resident[digest] = resident
            if resident.is_retired:
                # Who wanted it may have gone since; the next collect() frees it then.
                self.on_change()

    def _mark(self, digest: str, is_retired: bool) -> None:
        resident = self._resident.get(digest)
        if resident is not None:
            resident.is_retired = is_retired
            self._free_if_retired(resident)
        elif digest in self._placing:
            self._placing[digest].is_retired = is_retired
        elif digest in self._coming:
            self._coming[digest].is_retired = is_retired

    def _free_unwanted(self) -> None:
        """Free what was retired, and forget what failed, on its way to requests gone since."""
        for resident in list(self._resident.values()):
            if resident.is_retired and resident.digest not in self._wanted:
                self._free_if_retired(resident)
        self._coming.forget_past(self._wanted)
        for digest in self._failures.keys() - self._wanted:
            del self._failures[digest]

    def _free_if_retired(self, resident: ResidentAdapter) -> None:
        if resident.is_retired and not resident.references:
            self._evict(resident.digest)

    def _evict(self, digest: str) -> None:
        resident = self._resident.pop(digest)
        self.on_evict(resident)
        self.store.free(resident)


def _as_exception(error: BaseException) -> Exception:
    """Something that a request can fail with, also where a library panicked."""
    return error if isinstance(error, Exception) else RuntimeError(repr(error))
