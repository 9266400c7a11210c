"""What one step computes, as lists in device memory that kernels read."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress

import torch

from loramux_kernels.branch import Branch
from loramux_kernels.triton_lora.adapter_table import AdapterTable
from loramux_kernels.triton_lora.projection import PackedProjection
from loramux_kernels.tuned.lora_shapes import LoRATiles

HEADER = 8
RECORD = 4
NO_SLOT = -1
"""Slot of the tiles whose rows belong to the base model."""
NO_ROW = -1
"""Fills up the last tile of a slot."""
MIN_RANK_TILE = 16
"""What tensor cores take at least."""


@dataclass(frozen=True)
class SingleAdapter:
    """Successive rows of one adapter, when a step runs no other."""

    slot: int
    start: int
    stop: int


class LoRAWork:
    """Tiles of one step: some rows of one adapter, times some components of its rank vector.

    Made once for each path and refilled for each step. All tensors keep their addresses, and the
    number of tiles is itself read from device memory, so one captured graph computes every mix of
    adapters.

    Args:
        max_rows: most rows of a step.
        max_rank: largest rank of any adapter that the table will name.
        max_slices: most slices of a projection.
        branch: where shrink may run beside the base product; None on a CPU.

    Attributes:
        begun: the projection whose rank vectors are computed ahead of or beside its product.
        max_rows, max_rank: as given, rows rounded up.
        rank: components of one rank tile of ``tiles``.
        counts: int32 ``[8]``: tiles of rows, tiles of rows and rank, row tiles.
        tiles: int32 ``[_, 4]``: slot, first row tile, number of rows, tile of the rank. Those of
            rank tile 0 come first: they are the tiles of rows.
        row_tiles: int32 ``[_, 4]``: slot, number of rows, how many tiles of that slot begin with
            this one; all rows, for the kernels that compute those of the base model as well.
        tile_rows: int32 ``[_, fused.rows]``: rows of the batch by row tile, -1 where there is none.
        site_records: int32 ``[_, sites, 4]``: by row tile, the table's records of its slot, so that
            a kernel finds its matrices by its own number alone; anything for the base model.
        partials: float32, what shrink leaves for who adds the updates, ``[splits, rows of the
            step, slices, rank]``.
    """

    def __init__(
        self,
        table: AdapterTable,
        tiles: LoRATiles,
        max_rows: int,
        max_rank: int,
        max_slices: int,
        branch: Branch | None = None,
    ) -> None:
        self.table = table
        self.shape = tiles
        self.branch = branch
        self.begun: PackedProjection | None = None
        self.max_rows = -(-max_rows // HEADER) * HEADER
        self.max_rank = max_rank
        self.rank = min(tiles.rank, _tile_of(max_rank))
        self.rank_stride = -(-max_rank // self.rank) * self.rank
        self.single: SingleAdapter | None = None
        self._max_slices = max_slices
        device = table.arena.device
        row_tiles = self._max_row_tiles(tiles.fused.rows)
        both_tiles = self._max_row_tiles(tiles.rows) * (self.rank_stride // self.rank)
        self._sizes = [
            HEADER, RECORD * row_tiles, tiles.fused.rows * row_tiles, RECORD * both_tiles
        ]  # fmt: skip
        self._data = torch.zeros(sum(self._sizes), dtype=torch.int32, device=device)
        self.counts, row_tile_data, tile_row_data, tile_data = torch.split(self._data, self._sizes)
        self.row_tiles, self.tiles = row_tile_data.view(-1, RECORD), tile_data.view(-1, RECORD)
        self.tile_rows = tile_row_data.view(-1, tiles.fused.rows)
        records = (row_tiles, *table.records.shape[1:])
        self.site_records = torch.zeros(records, dtype=torch.int32, device=device)
        partials = _max_partials(tiles, self.max_rows) * max_slices * self.rank_stride
        self.partials = torch.empty(partials, dtype=torch.float32, device=device)

    def fused_rank(self, tiles: LoRATiles) -> int:
        """Components that one product of the fused kernels takes."""
        return min(tiles.fused.rank, _tile_of(self.max_rank))

    def fill(self, segments: Sequence[tuple[int, Sequence[int]]], num_rows: int = 0) -> None:
        """Say which rows run on which slots in the steps that follow.

        Rows below ``num_rows`` that no segment names belong to the base model. The kernels that
        only add updates leave all other rows alone; those that compute something else besides
        leave out what lies beyond, such as the padding of a captured graph.

        Kernels read the lists before they wait for the one ahead of them, which must not be what
        this launches: begin the step with another, such as the product of the base weights.

        Args:
            segments: slots and their rows, each row once; a slot may come several times.
            num_rows: rows of the step.

        Raises:
            ValueError: there are more rows than ``max_rows`` or a rank above ``max_rank``.
        """
        segments = [segment for segment in segments if self.table.max_rank(segment[0])]
        rows_of: dict[int, array[int]] = {}
        for slot, rows in segments:
            rows_of.setdefault(slot, array("i")).extend(rows)
        base = _others(segments, num_rows)
        self._check(rows_of, base)
        self.single = _single(segments) if self.shape.dense and len(rows_of) == 1 else None
        self._upload(rows_of, base)

    @property
    def is_empty(self) -> bool:
        """Whether no row of the step runs on an adapter."""
        return not self._num_rows

    def _upload(self, rows_of: Mapping[int, array[int]], base: array[int]) -> None:
        heads, tails = self._tile_records(rows_of)
        row_tiles, tile_rows = self._row_tile_records({**rows_of, NO_SLOT: base})
        self._num_rows = sum(map(len, rows_of.values()))
        counts = [len(records) // RECORD for records in (heads, heads + tails, row_tiles)]
        parts = array("i", counts), row_tiles, tile_rows, heads + tails
        data, end = array("i"), 0
        for size, part in zip(self._sizes, parts, strict=True):
            data.extend([0] * (end - len(data)))
            data.extend(part)
            end += size
        host = torch.frombuffer(data, dtype=torch.int32)
        if self._data.is_cuda:
            host = host.pin_memory()
        self._data[: len(data)].copy_(host, non_blocking=True)
        named = sum(-(-len(rows) // self.shape.fused.rows) for rows in rows_of.values())
        if named:
            slots = self.row_tiles[:named, 0]
            torch.index_select(self.table.records, 0, slots, out=self.site_records[:named])

    def _tile_records(self, rows_of: Mapping[int, array[int]]) -> tuple[array[int], array[int]]:
        heads, tails = array("i"), array("i")
        first = 0
        for slot, rows in rows_of.items():
            rank_tiles = -(-self.table.max_rank(slot) // self.rank)
            for start in range(0, len(rows), self.shape.rows):
                tile = first + start // self.shape.fused.rows
                count = min(self.shape.rows, len(rows) - start)
                heads.extend((slot, tile, count, 0))
                for rank_tile in range(1, rank_tiles):
                    tails.extend((slot, tile, count, rank_tile))
            first += -(-len(rows) // self.shape.fused.rows)
        return heads, tails

    def _row_tile_records(self, rows_of: Mapping[int, array[int]]) -> tuple[array[int], array[int]]:
        records, padded, size = array("i"), array("i"), self.shape.fused.rows
        for slot, rows in rows_of.items():
            run = -(-len(rows) // size)
            for number in range(run):
                records.extend((slot, min(size, len(rows) - number * size), run - number, 0))
            padded.extend(rows)
            padded.extend([NO_ROW] * (run * size - len(rows)))
        return records, padded

    def _max_row_tiles(self, rows: int) -> int:
        """Tiles of so many rows when every adapter has one that is not full, and the base too."""
        partly_filled = min(self.max_rows, self.table.max_resident + 1)
        return min(self.max_rows, self.max_rows // rows + partly_filled)

    def _check(self, rows_of: Mapping[int, array[int]], base: array[int]) -> None:
        num_rows = sum(map(len, rows_of.values())) + len(base)
        if num_rows > self.max_rows:
            raise ValueError(
                f"the step has {num_rows} rows, but this work list holds {self.max_rows}: "
                "make it larger."
            )
        for slot in rows_of:
            if self.table.max_rank(slot) > self.rank_stride:
                raise ValueError(
                    f"the adapter in slot {slot} has rank {self.table.max_rank(slot)}, but this "
                    f"work list is made for ranks to {self.rank_stride}: make it for larger ones."
                )


def _others(segments: Iterable[tuple[int, Sequence[int]]], num_rows: int) -> array[int]:
    """The rows below ``num_rows`` that no segment names."""
    is_free = bytearray(b"\1") * num_rows
    for _, rows in segments:
        if isinstance(rows, range) and rows.step == 1:
            is_free[rows.start : rows.stop] = bytes(len(is_free[rows.start : rows.stop]))
        else:
            for row in rows:
                is_free[row : row + 1] = bytes(row < num_rows)
    return array("i", compress(range(num_rows), is_free))


def _single(segments: Iterable[tuple[int, Sequence[int]]]) -> SingleAdapter | None:
    """The rows as one range of one slot, None if they do not lie like that."""
    found: SingleAdapter | None = None
    for slot, rows in segments:
        if not isinstance(rows, range) or rows.step != 1 or not rows:
            return None
        if found is not None and (slot, rows.start) != (found.slot, found.stop):
            return None
        found = SingleAdapter(slot, found.start if found else rows.start, rows.stop)
    return found


def _max_partials(tiles: LoRATiles, max_rows: int) -> int:
    """Most rows of partial sums that a step leaves."""
    short = tiles.short
    shorter = short.shrink.max_splits * min(max_rows, tiles.short_rows) if short else 0
    return max(tiles.shrink.max_splits * max_rows, shorter)


def _tile_of(rank: int) -> int:
    """The smallest power of two that holds a rank and that tensor cores take."""
    return max(MIN_RANK_TILE, 1 << (rank - 1).bit_length())
