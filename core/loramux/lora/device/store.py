"""Where the device keeps adapters: what the pool asks of a store, and the one for a CPU."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

import torch

from loramux.lora.adapter import Adapter
from loramux.lora.device.resident import ResidentAdapter, ResidentPair
from loramux.lora.weights import AdapterWeights, LowRankPair


@dataclass(frozen=True)
class StoreBounds:
    """How much a store takes, empty.

    Args:
        num_adapters: most adapters, whatever their size.
        num_bytes: of all together; None where only their number counts.
        item_bytes: of one element of a matrix.
    """

    num_adapters: int
    num_bytes: int | None
    item_bytes: int


class AdapterStore(Protocol):
    """Memory for adapters. All but ``fill`` is called on the engine's thread, between steps."""

    @property
    def bounds(self) -> StoreBounds:
        """How much fits."""

    def prepare(self, adapter: Adapter, weights: AdapterWeights) -> ResidentAdapter:
        """What the adapter will be here, without room for it yet.

        Raises:
            AdapterRefusedError: it is too large to be ever here.
        """

    def reserve(self, resident: ResidentAdapter) -> bool:
        """Take room for a prepared adapter; False, and nothing is taken, if there is too little."""

    def fits_without(self, resident: ResidentAdapter, idle: Collection[ResidentAdapter]) -> bool:
        """Whether there is room for a prepared adapter once the idle ones have been freed."""

    def fill(self, resident: ResidentAdapter, weights: AdapterWeights) -> None:
        """Copy the tensors to the room reserved; returns when they have arrived.

        Called on threads of the pool, for different adapters at the same time.
        """

    def publish(self, resident: ResidentAdapter) -> None:
        """Make a filled adapter known to the steps launched from now on."""

    def free(self, resident: ResidentAdapter) -> None:
        """Give the room back; a step that was launched before may still read it."""

    def shutdown(self) -> None:
        """End the store's own threads."""


class TensorStore:
    """Tensors of their own for every matrix, on the CPU; ``capacity`` counts adapters."""

    def __init__(self, dtype: torch.dtype, capacity: int) -> None:
        self._dtype = dtype
        self._free = capacity
        self.bounds = StoreBounds(capacity, None, dtype.itemsize)

    def prepare(self, adapter: Adapter, weights: AdapterWeights) -> ResidentAdapter:
        """An adapter without its tensors."""
        return ResidentAdapter(adapter, {})

    def reserve(self, resident: ResidentAdapter) -> bool:
        """Count one adapter more, unless there are as many as may be."""
        if not self._free:
            return False
        self._free -= 1
        return True

    def fits_without(self, resident: ResidentAdapter, idle: Collection[ResidentAdapter]) -> bool:
        """Whether one may leave, unless there is a place already."""
        return self._free > 0 or bool(idle)

    def fill(self, resident: ResidentAdapter, weights: AdapterWeights) -> None:
        """Cast and transpose."""
        with torch.inference_mode():
            resident.pairs = {name: self._placed(pair) for name, pair in weights.pairs.items()}

    def publish(self, resident: ResidentAdapter) -> None:
        """Nobody has to be told."""

    def free(self, resident: ResidentAdapter) -> None:
        """Count one adapter less."""
        self._free += 1

    def shutdown(self) -> None:
        """There are no threads."""

    def _placed(self, pair: LowRankPair) -> ResidentPair:
        """An embedding's A is ``[vocabulary, rank]``, like that of other layers."""
        a = pair.a.to(self._dtype).t().contiguous()
        b = pair.b.to(self._dtype).t().contiguous()
        return ResidentPair(a, b, pair.scaling)
