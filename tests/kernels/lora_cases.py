"""Adapters with random weights in an arena full of NaN, and what they compute in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from loramux_kernels.triton_lora import (
    AdapterTable,
    Arena,
    LoRATiles,
    LoRAWork,
    PackedProjection,
    PairPlacement,
)

PAGE_ELEMENTS = 64
Segments = Sequence[tuple[int, Sequence[int]]]


@dataclass
class Layer:
    """Projections whose sites follow each other in the table, and adapters that act on them.

    ``ranks[slot][site]`` is the rank of an adapter at a site, 0 where it leaves it alone.
    """

    shapes: list[tuple[int, list[int]]]
    ranks: list[list[int]]
    dtype: torch.dtype
    device: str = "cpu"
    page_elements: int = PAGE_ELEMENTS
    projections: list[PackedProjection] = field(init=False)
    table: AdapterTable = field(init=False)

    def __post_init__(self) -> None:
        self.projections, sites = [], []
        for in_features, widths in self.shapes:
            self.projections.append(PackedProjection(len(sites), in_features, widths, self.device))
            sites += [(in_features, width) for width in widths]
        self.sites = sites
        page = self.page_elements
        sizes = [
            sum(rank * (i + o) + 32 for rank, (i, o) in zip(row, sites, strict=True)) + page
            for row in self.ranks
        ]
        arena = torch.full((sum(sizes) + page,), float("nan"), dtype=self.dtype, device=self.device)
        self.table = AdapterTable(arena, len(self.ranks) + 1, len(sites))
        self.books = Arena(arena.numel(), page)
        for slot in range(len(self.ranks)):
            self.place(slot)

    def place(self, slot: int) -> None:
        """Room and random weights for an adapter, as large as they are in real ones."""
        sites = [site for site, rank in enumerate(self.ranks[slot]) if rank]
        sizes = [self.ranks[slot][s] * width for s in sites for width in self.sites[s]]
        allocation = self.books.allocate_matrices(sizes)
        assert allocation is not None
        for offset, size in zip(allocation.offsets, sizes, strict=True):
            matrix = torch.randn(size, device=self.device) * 0.1
            self.table.arena[offset : offset + size] = matrix.to(self.dtype)
        offsets = iter(allocation.offsets)
        self.table.put(
            slot,
            {
                site: PairPlacement(
                    next(offsets), next(offsets), self.ranks[slot][site], 0.5 + site + slot / 8
                )
                for site in sites
            },
        )

    def work(self, tiles: LoRATiles, max_rows: int) -> LoRAWork:
        """A work list with NaN wherever a step could leave something unwritten."""
        max_rank = max(1, *(rank for row in self.ranks for rank in row))
        slices = max(projection.num_slices for projection in self.projections)
        work = LoRAWork(self.table, tiles, max_rows, max_rank, slices)
        work.partials.fill_(float("nan"))
        return work

    def updates(self, index: int, x: Tensor, slot: int) -> tuple[Tensor, Tensor]:
        """An adapter's update of every row in float64, and what an exact kernel may err by."""
        projection = self.projections[index]
        parts, bounds = [], []
        for offset, width in enumerate(projection.widths):
            pair = self.table.pair(
                slot, projection.first_site + offset, projection.in_features, width
            )
            if pair is None:
                parts.append(torch.zeros(len(x), width, dtype=torch.float64, device=x.device))
                bounds.append(parts[-1])
                continue
            a, b, scaling = (
                value.double() if isinstance(value, Tensor) else value for value in pair
            )
            hidden = x.double() @ a.t() * scaling
            parts.append(hidden @ b)
            # Sums in float32; the rank vector enters the second product with 16 bits or more.
            error = 2.0**-21 * (x.double().abs() @ a.abs().t() * scaling)
            if self.dtype != torch.float32:
                error += 2.0**-16 * hidden.abs()
            bounds.append((error + 2.0**-21 * hidden.abs()) @ b.abs())
        return torch.cat(parts, 1), torch.cat(bounds, 1)

    def check(self, index: int, y: Tensor, before: Tensor, x: Tensor, segments: Segments) -> None:
        """Every row got its own adapter's update, rounded once; the others not a bit.

        Slices that an adapter leaves alone must keep every bit too.
        """
        projection = self.projections[index]
        touched: set[int] = set()
        for slot, some_rows in segments:
            rows = list(some_rows)
            self._check_rows(y[rows], before[rows], *self.updates(index, x[rows], slot))
            touched.update(rows)
            for offset, start in enumerate(projection.starts):
                if not self.ranks[slot][projection.first_site + offset]:
                    end = start + projection.widths[offset]
                    assert same_bits(y[rows, start:end], before[rows, start:end])
        others = [row for row in range(len(y)) if row not in touched]
        assert same_bits(y[others], before[others])

    def _check_rows(self, y: Tensor, before: Tensor, update: Tensor, bound: Tensor) -> None:
        expected = before.double() + update
        rounding = torch.finfo(self.dtype).eps / 2 * expected.abs()
        excess = (y.double() - expected).abs() - 1.01 * rounding - bound
        assert (excess <= torch.finfo(self.dtype).smallest_normal).all(), (
            f"{excess.max().item():.3g} more than one rounding allows"
        )


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Told apart to the last bit: ``torch.equal`` takes -0.0 for 0.0, and NaN for different."""
    kind = torch.int32 if left.dtype == torch.float32 else torch.int16
    return torch.equal(left.contiguous().view(kind), right.contiguous().view(kind))
