"""Adapters at their true ranks in one preallocated stretch of device memory."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from loramux.errors import AdapterRefusedError
from loramux.lora.adapter import Adapter
from loramux.lora.device.packed_moves import PackedMoves
from loramux.lora.device.pieces import Move
from loramux.lora.device.resident import ResidentAdapter, ResidentPair
from loramux.lora.device.staging import Staging
from loramux.lora.device.store import StoreBounds
from loramux.lora.packed_weights import PackedPairs
from loramux.lora.site import LoRASite, PackedSites, SiteKind
from loramux.lora.weights import AdapterWeights, LowRankPair
from loramux_kernels.triton_lora import (
    PAGE_BYTES,
    AdapterTable,
    Allocation,
    Arena,
    PairPlacement,
)

MAX_RESIDENT = 1024
"""Rows of the table; one has 16 bytes for each site."""

DEFAULT_MEMORY_SHARE = 0.1


class ArenaPairs(Mapping[str, ResidentPair]):
    """An adapter's matrices as views of the arena, made when somebody asks."""

    def __init__(
        self, arena: Tensor, sites: Mapping[str, LoRASite], placements: Mapping[str, PairPlacement]
    ) -> None:
        self._arena = arena
        self._sites = sites
        self._placements = placements
        self._made: dict[str, ResidentPair] = {}

    def __getitem__(self, name: str) -> ResidentPair:
        if name not in self._made:
            self._made[name] = self._make(self._sites[name], self._placements[name])
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in self._placements

    def __iter__(self) -> Iterator[str]:
        return iter(self._placements)

    def __len__(self) -> int:
        return len(self._placements)

    def _make(self, site: LoRASite, placement: PairPlacement) -> ResidentPair:
        rank, width = placement.rank, site.in_features
        a = self._arena[placement.a : placement.a + rank * width]
        b = self._arena[placement.b : placement.b + rank * site.out_features]
        is_embedding = site.kind is SiteKind.EMBEDDING
        a = a.view(width, rank) if is_embedding else a.view(rank, width).t()
        return ResidentPair(a, b.view(rank, site.out_features), placement.scaling)


@dataclass(eq=False)
class ArenaAdapter(ResidentAdapter):
    """An adapter in the arena."""

    sizes: list[int] = field(default_factory=list)
    """Elements of A and B of each site, in the order of its weights."""
    num_pages: int = 0
    allocation: Allocation | None = None
    placements: dict[int, PairPlacement] = field(default_factory=dict)
    """By column of the table."""
    row: Tensor | None = None
    """The table's records of it, on the host."""
    free_after: torch.cuda.Event | None = None
    """Until then, others may still be read where it will lie."""


class ArenaStore:
    """Rows of a table that kernels read, and the arena they point into.

    A step in flight may still read what is freed: whatever is placed there next is written after
    an event recorded on the stream that is current when ``free`` is called. So ``publish`` and
    ``free`` belong on the stream that computes, between steps.

    Args:
        sites: in the order of the table's columns; see ``packed_first``.
        arena: flat, in the dtype of the layers' inputs.
        max_resident: most adapters, whatever their size.
    """

    def __init__(
        self,
        sites: Sequence[LoRASite],
        arena: Tensor,
        max_resident: int = MAX_RESIDENT,
        staging: Staging | None = None,
    ) -> None:
        self.table = AdapterTable(arena, max_resident, len(sites))
        self.bounds = StoreBounds(max_resident, arena.nbytes, arena.itemsize)
        self.staging = staging or Staging(arena)
        self._sites = {site.name: site for site in sites}
        self._columns = {site.name: column for column, site in enumerate(sites)}
        self._books = Arena(arena.numel(), PAGE_BYTES // arena.itemsize)
        self._free_slots = list(range(max_resident))
        self._freed: torch.cuda.Event | None = None

    def prepare(self, adapter: Adapter, weights: AdapterWeights) -> ResidentAdapter:
        """What the adapter will be here, without room for it yet.

        Raises:
            AdapterRefusedError: it is larger than the arena.
        """
        sizes = _sizes(weights.pairs)
        num_pages = self._books.pages_of(sizes)
        if num_pages > self._books.num_pages:
            page_bytes = self._books.page_elements * self.table.arena.itemsize
            raise AdapterRefusedError.at(
                adapter.origin.place,
                f"the adapter needs {num_pages * page_bytes / 1e6:.1f} MB of device memory, but "
                f"there are {self._books.num_pages * page_bytes / 1e6:.1f} MB for all adapters "
                "together; raise lora_memory_bytes.",
            )
        return ArenaAdapter(adapter, {}, sizes=sizes, num_pages=num_pages)

    def reserve(self, resident: ResidentAdapter) -> bool:
        """Take pages and a row of the table; False, and nothing is taken, if there are too few."""
        mine = _mine(resident)
        if not self._free_slots or mine.num_pages > self._books.free_pages:
            return False
        mine.allocation = self._books.allocate_matrices(mine.sizes)
        if mine.allocation is None:
            return False
        mine.slot = heapq.heappop(self._free_slots)
        mine.free_after = self._freed
        return True

    def fits_without(self, resident: ResidentAdapter, idle: Collection[ResidentAdapter]) -> bool:
        """Whether there are a row and enough pages, and none of them too far apart."""
        mine, held = _mine(resident), [one.allocation for one in map(_mine, idle)]
        freed = [allocation for allocation in held if allocation is not None]
        pages = self._books.free_pages + sum(map(_num_pages, freed))
        return (
            bool(self._free_slots or idle)
            and mine.num_pages <= pages  # which takes no time to know
            and self._books.would_fit(mine.sizes, freed)
        )

    def fill(self, resident: ResidentAdapter, weights: AdapterWeights) -> None:
        """Bring the tensors to their places; returns when they have arrived."""
        mine = _mine(resident)
        assert mine.allocation is not None, "the pool fills what it has reserved"
        offsets = iter(mine.allocation.offsets)
        placements = {
            name: PairPlacement(next(offsets), next(offsets), rank, scaling)
            for name, rank, scaling in _outline(weights.pairs)
        }
        mine.placements = {self._columns[name]: place for name, place in placements.items()}
        mine.row = self.table.encode(mine.placements)
        mine.pairs = ArenaPairs(self.table.arena, self._sites, placements)
        moves = self._packed_moves(weights.pairs, mine.allocation)
        self.staging.move(moves or self._moves(weights, placements), mine.free_after)

    def publish(self, resident: ResidentAdapter) -> None:
        """Write its row of the table, behind the steps launched so far."""
        mine = _mine(resident)
        assert mine.slot is not None, "the pool publishes what it has reserved"
        self.table.put(mine.slot, mine.placements, mine.row)

    def free(self, resident: ResidentAdapter) -> None:
        """Give pages and row back."""
        mine = _mine(resident)
        assert mine.slot is not None, "the pool frees what it has reserved"
        assert mine.allocation is not None, "a slot comes with pages"
        self._books.free(mine.allocation)
        heapq.heappush(self._free_slots, mine.slot)
        arena = self.table.arena
        if arena.is_cuda:
            self._freed = torch.cuda.current_stream(arena.device).record_event()

    def shutdown(self) -> None:
        """End the staging area's threads."""
        self.staging.shutdown()

    def _packed_moves(
        self, pairs: Mapping[str, LowRankPair], allocation: Allocation
    ) -> PackedMoves | None:
        """The quick way, None where the pairs do not allow it."""
        if not isinstance(pairs, PackedPairs):
            return None
        moves = PackedMoves(pairs, np.array(allocation.offsets).reshape(-1, 2))
        return moves if moves.fit(self.staging.piece_bytes) else None

    def _moves(
        self, weights: AdapterWeights, placements: Mapping[str, PairPlacement]
    ) -> Iterator[Move]:
        """An embedding's A is looked up by row, so it lies as ``[vocabulary, rank]``."""
        for name, pair in weights.pairs.items():
            is_embedding = self._sites[name].kind is SiteKind.EMBEDDING
            yield Move(pair.a, placements[name].a, transposed=is_embedding)
            yield Move(pair.b, placements[name].b, transposed=True)


def _num_pages(allocation: Allocation) -> int:
    """More than its matrices need where several holes had to be filled."""
    return sum(extent.count for extent in allocation.extents)


def _sizes(pairs: Mapping[str, LowRankPair]) -> list[int]:
    """Elements of A and B of each site."""
    if isinstance(pairs, PackedPairs):
        sizes: list[int] = pairs.sizes.ravel().tolist()
        return sizes
    return [matrix.numel() for pair in pairs.values() for matrix in (pair.a, pair.b)]


def _outline(pairs: Mapping[str, LowRankPair]) -> Iterable[tuple[str, int, float]]:
    """Name, rank and scaling of each site."""
    if isinstance(pairs, PackedPairs):
        return zip(pairs, pairs.ranks, pairs.scalings.tolist(), strict=True)
    return ((name, pair.rank, pair.scaling) for name, pair in pairs.items())


def packed_first(
    sites: Mapping[str, LoRASite], projections: Sequence[PackedSites]
) -> list[LoRASite]:
    """Sites in the order of the table's columns: those of projections in theirs, then others."""
    packed = [site for projection in projections for site in projection.sites]
    names = {site.name for site in packed}
    return packed + [site for name, site in sites.items() if name not in names]


def allocate_arena(device: torch.device, dtype: torch.dtype, num_bytes: int | None) -> Tensor:
    """The arena, of a tenth of a GPU's memory unless told otherwise."""
    if num_bytes is None:
        total = torch.cuda.get_device_properties(device).total_memory
        num_bytes = int(total * DEFAULT_MEMORY_SHARE)
    return torch.empty(num_bytes // dtype.itemsize, dtype=dtype, device=device)


def _mine(resident: ResidentAdapter) -> ArenaAdapter:
    assert isinstance(resident, ArenaAdapter), "a store gets back what it has prepared"
    return resident
