"""What one engine needs to run adapters on its model: sites, device pool, stack and layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

from loramux.lora.adapter import Adapter
from loramux.lora.device.arena_store import ArenaStore, allocate_arena, packed_first
from loramux.lora.device.kernel_updates import KernelUpdates
from loramux.lora.device.layers import LoRALayers
from loramux.lora.device.packed import AdapterRows, PackedLoRA, PackedUpdates, TorchUpdates
from loramux.lora.device.plan import LoRAPlan, RowSpan, can_be_grouped, plan_rows
from loramux.lora.device.pool import DevicePool
from loramux.lora.device.resident import ResidentAdapter
from loramux.lora.device.stack import AdapterStack
from loramux.lora.device.store import TensorStore
from loramux.lora.site import LoRASite, PackedSites
from loramux.lora.weights import AdapterWeights
from loramux_kernels.gpu import runs_kernels

RESIDENT_PER_RUNNING = 2
"""Places on the device for each adapter that may run, so that the next ones can arrive early."""

Item = TypeVar("Item")
AdapterOf = Callable[[Item], Adapter | None]


@dataclass(frozen=True)
class LoRALimits:
    """What memory for adapters is made for; the defaults are those of ``EngineArgs``.

    Args:
        memory_bytes: of the arena; a tenth of a GPU's memory if None, and no arena on a CPU.
        max_rank: largest rank of any adapter.
        max_rows: most tokens of a step.
        max_decode_rows: most sequences of a step.
    """

    memory_bytes: int | None = None
    max_rank: int = 16
    max_rows: int = 2048
    max_decode_rows: int = 256


DEFAULT_LIMITS = LoRALimits()


class LoRARuntime:
    """Adapters applied to one model; made once, when the engine starts."""

    def __init__(
        self,
        model: nn.Module,
        sites: dict[str, LoRASite],
        max_loras: int,
        fetch_weights: Callable[[Adapter], Future[AdapterWeights]],
        projections: Sequence[PackedSites] | None = None,
        *,
        limits: LoRALimits = DEFAULT_LIMITS,
    ) -> None:
        parameter = next(model.parameters())
        self._device = parameter.device
        self._arena: ArenaStore | None = None
        if self._device.type == "cuda" or limits.memory_bytes is not None:
            arena = allocate_arena(self._device, parameter.dtype, limits.memory_bytes)
            self._arena = ArenaStore(packed_first(sites, projections or []), arena)
        store = self._arena or TensorStore(parameter.dtype, RESIDENT_PER_RUNNING * max_loras)
        self.pool = DevicePool(fetch_weights, store)
        self._stack = AdapterStack(sites, parameter.device, parameter.dtype)
        self.pool.on_evict = self._stack.forget
        self._layers = LoRALayers(model, sites, self._stack)
        self.packed: PackedLoRA | None = None
        """What a fused decoder with these ``projections`` adds; None for a model without one."""
        if projections is not None:
            updates = self._updates(projections, limits)
            self.packed = PackedLoRA(projections, sites, self._resident, updates, self._device)

    def wait_until_ready(self) -> None:
        """Until host memory is pinned and kernels are compiled; capture no graph before.

        The engine's start may go on meanwhile.
        """
        if self._arena is not None:
            self._arena.staging.wait_until_ready()

    def arrange(self, items: Sequence[Item], adapter_of: AdapterOf[Item]) -> list[Item]:
        """Put the parts of a batch in the order of their adapters' slots, the base model last.

        Rows of one adapter then lie together, in the order of the stacked weights, which saves
        gathering them. Gives every adapter its slot; call it before ``running``.
        """
        adapters = dict.fromkeys(a for item in items if (a := adapter_of(item)) is not None)
        resident = {adapter: self._resident(adapter) for adapter in adapters}
        grouped = [held for held in resident.values() if can_be_grouped(held)]
        self._stack.assign(grouped)
        slots = {held.adapter: self._stack.slot_of(held) for held in grouped}
        last = len(self._stack)

        def place(item: Item) -> int:
            adapter = adapter_of(item)
            return last + 1 if adapter is None else slots.get(adapter, last)

        return sorted(items, key=place)

    def running(
        self, tokens: Sequence[AdapterRows], samples: Sequence[AdapterRows]
    ) -> AbstractContextManager[None]:
        """Apply adapters during one forward pass.

        Args:
            tokens: adapters of all rows of the batch, in order.
            samples: adapters of the rows whose logits are computed, in order.
        """
        return self._layers.running(self._plan(tokens), self._plan(samples))

    def _updates(self, projections: Sequence[PackedSites], limits: LoRALimits) -> PackedUpdates:
        if self._arena is None or not runs_kernels(self._device):
            return TorchUpdates(projections, self._device)
        return KernelUpdates(
            projections,
            self._arena.table,
            limits.max_rows,
            limits.max_decode_rows,
            limits.max_rank,
        )

    def _plan(self, rows: Sequence[AdapterRows]) -> LoRAPlan | None:
        num_rows = rows[-1][2] if rows else 0
        spans = [
            RowSpan(self._resident(adapter), start, stop)
            for adapter, start, stop in rows
            if adapter is not None
        ]
        return plan_rows(spans, num_rows, self._stack, self._device)

    def _resident(self, adapter: Adapter) -> ResidentAdapter:
        resident = self.pool.get(adapter)
        assert resident is not None, "the scheduler runs resident adapters only"
        return resident

    def shutdown(self) -> None:
        self.pool.shutdown()
