"""Adapters that come to the host for the device's sake, or wait there for room on it."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass

from loramux.lora.adapter import Adapter
from loramux.lora.device.resident import ResidentAdapter
from loramux.lora.weights import AdapterWeights

MAX_COMING = 8
"""Each holds its tensors on the host, beyond what the host cache may."""


@dataclass(eq=False)
class ComingAdapter:
    """An adapter that has no room yet: its tensors come first, their sizes decide."""

    adapter: Adapter
    weights: Future[AdapterWeights]
    resident: ResidentAdapter | None = None
    """What it will be on the device, once its tensors are here."""
    is_retired: bool = False

    @property
    def has_failed(self) -> bool:
        """Whether its tensors will not come."""
        weights = self.weights
        return weights.done() and (weights.cancelled() or weights.exception() is not None)


class ComingAdapters(Mapping[str, ComingAdapter]):
    """By digest, in the order in which they were first asked for; used on the engine's thread.

    Args:
        fetch_weights: brings tensors to the host, on threads of its own.
        on_change: called on those threads when tensors have come.
    """

    def __init__(
        self,
        fetch_weights: Callable[[Adapter], Future[AdapterWeights]],
        on_change: Callable[[], None],
    ) -> None:
        self._fetch_weights = fetch_weights
        self._on_change = on_change
        self._adapters: dict[str, ComingAdapter] = {}

    def __getitem__(self, digest: str) -> ComingAdapter:
        return self._adapters[digest]

    def __iter__(self) -> Iterator[str]:
        return iter(self._adapters)

    def __len__(self) -> int:
        return len(self._adapters)

    def ask_for(self, adapter: Adapter, wanted: Container[str]) -> ComingAdapter | None:
        """An adapter that comes, from now on at the latest.

        None if as many come as may, all of them ``wanted``; else one of them is given up for it.
        """
        digest = adapter.digest
        if digest not in self and (len(self) < MAX_COMING or self._give_up_one(wanted)):
            self._adapters[digest] = self._fetch(adapter)
        return self.get(digest)

    def remove(self, digest: str) -> None:
        """An adapter waits no more: it has got room, or has failed."""
        del self._adapters[digest]

    def forget_past(self, wanted: Container[str]) -> None:
        """Give up what was retired or has failed, except where somebody still waits for it."""
        for digest, coming in list(self.items()):
            if (coming.is_retired or coming.has_failed) and digest not in wanted:
                self._give_up(digest)

    def _give_up_one(self, wanted: Container[str]) -> bool:
        """Give up the latest that nobody has asked for again.

        The latest, since they are asked for in their order: those before it may yet be.
        """
        unwanted = (digest for digest in reversed(self._adapters) if digest not in wanted)
        latest = next(unwanted, None)
        if latest is not None:
            self._give_up(latest)
        return latest is not None

    def _give_up(self, digest: str) -> None:
        self._adapters.pop(digest).weights.cancel()

    def _fetch(self, adapter: Adapter) -> ComingAdapter:
        weights = self._fetch_weights(adapter)
        if not weights.done():
            weights.add_done_callback(lambda _: self._on_change())
        return ComingAdapter(adapter, weights)
