"""Where each resident adapter's matrices lie, in a table that kernels read."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from loramux_kernels.triton_lora.arena import GRANULE

RECORD = 4
_FORMAT = struct.Struct("3if")


@dataclass(frozen=True)
class PairPlacement:
    """One site's matrices in the arena.

    ``A`` is ``[rank, in_features]`` there and ``B`` is ``[rank, out_features]``: both products
    read along rows, which are contiguous and aligned for every rank. (With ``B`` as
    ``[out_features, rank]``, an odd rank would leave no two rows aligned.)

    Args:
        a: first element of A, a multiple of ``GRANULE``.
        b: first element of B, likewise.
    """

    a: int
    b: int
    rank: int
    scaling: float


class AdapterTable:
    """Placements by slot and site; a site that an adapter leaves alone has rank 0.

    Slots number resident adapters. The table is a device tensor of fixed address, so that a
    captured graph serves whatever adapters it names at replay.

    Args:
        arena: flat tensor that holds all matrices, in the dtype of the layers' inputs.

    Attributes:
        records: int32 ``[max_resident, num_sites, 4]``: granule of A, granule of B, rank and the
            bits of the float32 scaling.
    """

    def __init__(self, arena: Tensor, max_resident: int, num_sites: int) -> None:
        self.arena = arena
        self.records = torch.zeros(
            (max_resident, num_sites, RECORD), dtype=torch.int32, device=arena.device
        )
        self._placements: list[Mapping[int, PairPlacement]] = [{} for _ in range(max_resident)]
        self._max_ranks = [0] * max_resident

    @property
    def max_resident(self) -> int:
        return self.records.shape[0]

    @property
    def num_sites(self) -> int:
        return self.records.shape[1]

    def put(
        self, slot: int, placements: Mapping[int, PairPlacement], row: Tensor | None = None
    ) -> None:
        """Name an adapter's placements, by site; in force for what is launched from now on.

        Args:
            row: what ``encode`` made of the placements, on whatever thread had the time.

        Raises:
            ValueError: a matrix is not aligned.
        """
        row = self.encode(placements) if row is None else row
        self._placements[slot] = dict(placements)
        self._max_ranks[slot] = max((pair.rank for pair in placements.values()), default=0)
        if self.records.is_cuda:
            row = row.pin_memory()
        self.records[slot].copy_(row, non_blocking=True)

    def encode(self, placements: Mapping[int, PairPlacement]) -> Tensor:
        """An adapter's records, int32 ``[num_sites, 4]`` on the host.

        Raises:
            ValueError: a matrix is not aligned.
        """
        row = bytearray(self.num_sites * _FORMAT.size)
        for site, pair in placements.items():
            if (pair.a | pair.b) % GRANULE:
                raise ValueError(
                    f"the matrices of site {site} lie at elements {pair.a} and {pair.b}: "
                    f"place them at multiples of {GRANULE}."
                )
            granules = pair.a // GRANULE, pair.b // GRANULE
            _FORMAT.pack_into(row, site * _FORMAT.size, *granules, pair.rank, pair.scaling)
        return torch.frombuffer(row, dtype=torch.int32).view(self.num_sites, RECORD)

    def clear(self, slot: int) -> None:
        """Make the slot's rows those of the base model."""
        self.put(slot, {})

    def max_rank(self, slot: int) -> int:
        """The largest rank of the adapter in a slot, 0 if there is none."""
        return self._max_ranks[slot]

    def pair(
        self, slot: int, site: int, in_features: int, out_features: int
    ) -> tuple[Tensor, Tensor, float] | None:
        """A ``[rank, in]``, B ``[rank, out]`` as views and the scaling; None for rank 0."""
        pair = self._placements[slot].get(site)
        if pair is None or not pair.rank:
            return None
        a = self.arena[pair.a : pair.a + pair.rank * in_features].view(pair.rank, in_features)
        b = self.arena[pair.b : pair.b + pair.rank * out_features].view(pair.rank, out_features)
        return a, b, pair.scaling
