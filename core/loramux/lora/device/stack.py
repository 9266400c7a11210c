"""Adapters of the running batch side by side, so that one batched product serves them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from loramux.lora.device.resident import ResidentAdapter
from loramux.lora.site import LoRASite

MAX_IDLE_SHARE = 4
"""Slots are given up when fewer than one in so many still serves the batch."""


@dataclass(eq=False)
class SiteStack:
    """One site's matrices of every slot, zero where a slot's adapter leaves the site alone.

    Shapes:
        a: ``[slots, in_features, rank]``; b: ``[slots, rank, out_features]``.
        scaling: ``[slots, 1, 1]``.
    """

    a: Tensor
    b: Tensor
    scaling: Tensor

    @property
    def slots(self) -> int:
        return self.a.shape[0]

    @property
    def rank(self) -> int:
        return self.a.shape[2]


class AdapterStack:
    """A workspace of slots, as many and as wide as the adapters that run together need.

    The adapters themselves stay at their true rank; only those in the batch are copied here,
    and only when the batch meets an adapter it did not have before.
    """

    def __init__(
        self, sites: Mapping[str, LoRASite], device: torch.device, dtype: torch.dtype
    ) -> None:
        self._sites = sites
        self._device = device
        self._dtype = dtype
        self._slots: list[ResidentAdapter | None] = []
        self._stacks: dict[str, SiteStack] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def get(self, site_name: str) -> SiteStack | None:
        """Stacked matrices of a site, None if no adapter in a slot changes it."""
        return self._stacks.get(site_name)

    def assign(self, adapters: Sequence[ResidentAdapter]) -> None:
        """Give each of these adapters a slot, copying in those that have none yet."""
        if not adapters:
            return
        if len(self._slots) > MAX_IDLE_SHARE * len(adapters):
            self._clear()
        wanted = set(adapters)
        missing = [adapter for adapter in adapters if adapter not in self._slots]
        num_free = sum(held not in wanted for held in self._slots)
        self._slots += [None] * (len(missing) - num_free)
        free = [slot for slot, held in enumerate(self._slots) if held not in wanted]
        for adapter, slot in zip(missing, free, strict=False):
            self._put(adapter, slot)

    def forget(self, adapter: ResidentAdapter) -> None:
        """Let go of an adapter that has left the device, and of the workspace after the last."""
        self._slots = [None if held is adapter else held for held in self._slots]
        if not any(self._slots):
            self._clear()

    def slot_of(self, adapter: ResidentAdapter) -> int:
        """The slot that ``assign`` gave the adapter."""
        return self._slots.index(adapter)

    def _clear(self) -> None:
        self._slots.clear()
        self._stacks.clear()

    def _put(self, adapter: ResidentAdapter, slot: int) -> None:
        """Fill a slot; until that is done it is nobody's, should memory run out in between."""
        self._slots[slot] = None
        for name in adapter.pairs.keys() | self._stacks.keys():
            self._write(name, slot, adapter)
        self._slots[slot] = adapter

    def _write(self, name: str, slot: int, adapter: ResidentAdapter) -> None:
        pair = adapter.pairs.get(name)
        stack = self._with_room(name, slot, 0 if pair is None else pair.rank)
        stack.a[slot].zero_()
        stack.b[slot].zero_()
        if pair is not None:
            stack.a[slot, :, : pair.rank] = pair.a
            stack.b[slot, : pair.rank] = pair.b
            stack.scaling[slot] = pair.scaling

    def _with_room(self, name: str, slot: int, rank: int) -> SiteStack:
        """The site's stack, made larger where this slot or rank does not fit."""
        old = self._stacks.get(name)
        if old is not None and slot < old.slots and rank <= old.rank:
            return old
        slots = max(len(self._slots), old.slots if old else 0)
        stack = self._allocate(self._sites[name], slots, max(rank, old.rank if old else 0))
        if old is not None:
            stack.a[: old.slots, :, : old.rank] = old.a
            stack.b[: old.slots, : old.rank] = old.b
            stack.scaling[: old.slots] = old.scaling
        self._stacks[name] = stack
        return stack

    def _allocate(self, site: LoRASite, slots: int, rank: int) -> SiteStack:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, device=self._device, dtype=self._dtype)

        return SiteStack(
            zeros(slots, site.in_features, rank),
            zeros(slots, rank, site.out_features),
            zeros(slots, 1, 1),
        )
