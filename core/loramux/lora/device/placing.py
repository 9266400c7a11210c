"""Adapters that have room on the device, and whose tensors are on their way into it."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from loramux.lora.device.resident import ResidentAdapter
from loramux.lora.device.store import AdapterStore
from loramux.lora.weights import AdapterWeights

PLACING_THREADS = 2
"""So that one adapter's tensors are gathered while another's cross the bus."""

Arrival = tuple[ResidentAdapter, BaseException | None]
"""An adapter, and why it is not there after all."""


class PlacingAdapters(Mapping[str, ResidentAdapter]):
    """By digest, until the engine's thread, whose these methods are, takes them over.

    Args:
        store: has room for them, and copies.
        on_change: called on other threads when one has arrived.
    """

    def __init__(self, store: AdapterStore, on_change: Callable[[], None]) -> None:
        self._store = store
        self._on_change = on_change
        self._adapters: dict[str, ResidentAdapter] = {}
        self._arrived: queue.SimpleQueue[Arrival] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(PLACING_THREADS, thread_name_prefix="loramux-place")

    def __getitem__(self, digest: str) -> ResidentAdapter:
        return self._adapters[digest]

    def __iter__(self) -> Iterator[str]:
        return iter(self._adapters)

    def __len__(self) -> int:
        return len(self._adapters)

    def begin(self, resident: ResidentAdapter, weights: AdapterWeights) -> None:
        """Copy an adapter's tensors to where the store has reserved room."""
        self._adapters[resident.digest] = resident
        self._threads.submit(self._place, resident, weights)

    @property
    def has_arrivals(self) -> bool:
        """Whether some have arrived that were not taken over yet."""
        return not self._arrived.empty()

    def take_arrivals(self) -> Iterator[Arrival]:
        """Those that have arrived, or failed; they are no longer here."""
        while self.has_arrivals:
            resident, failure = self._arrived.get()
            del self._adapters[resident.digest]
            yield resident, failure

    def shutdown(self) -> None:
        """Begin no more; what is under way ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _place(self, resident: ResidentAdapter, weights: AdapterWeights) -> None:
        """On a thread of its own; every outcome is reported to the engine's."""
        started = time.monotonic()
        failure: BaseException | None = None
        try:
            self._store.fill(resident, weights)
        except BaseException as error:  # whatever is not reported would be waited for for ever
            failure = error
        resident.adapter.note_stage("place", started, time.monotonic())
        self._arrived.put((resident, failure))
        self._on_change()
