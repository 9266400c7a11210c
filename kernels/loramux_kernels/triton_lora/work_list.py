"""What one step computes, as lists in device memory that kernels read."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress

import torch

from loramux_kernels.triton_lora.adapter_table import AdapterTable
from loramux_kernels.triton_lora.tiles import LoRATiles

HEADER = 8
RECORD = 4
NO_SLOT = -1
"""Slot of the tiles whose rows belong to the base model."""


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

    Attributes:
        max_rows, max_rank: as given, rows rounded up.
        counts: int32 ``[8]``: tiles of rows, tiles of rows and rank, row tiles.
        rows: int32 ``[max_rows]``, rows of the batch in the order of their adapters, those of
            the base model last.
        tiles: int32 ``[_, 4]``: slot, first place in ``rows``, number of rows, tile of the rank.
            Those of rank tile 0 come first: they are the tiles of rows.
        row_tiles: int32 ``[_, 4]``: slot, first place in ``rows``, number of rows; all rows, for
            the kernels that compute those of the base model as well.
        partials: float32, what shrink leaves for expand, ``[splits, max_rows, slices, rank]``.
    """

    def __init__(
        self,
        table: AdapterTable,
        tiles: LoRATiles,
        max_rows: int,
        max_rank: int,
        max_slices: int,
    ) -> None:
        self.table = table
        self.shape = tiles
        self.max_rows = -(-max_rows // HEADER) * HEADER
        self.max_rank = max_rank
        self.rank_stride = -(-max_rank // tiles.rank) * tiles.rank
        self.single: SingleAdapter | None = None
        self._max_slices = max_slices
        device = table.arena.device
        row_tiles = RECORD * self._max_row_tiles(tiles.fused.rows)
        rank_tiles = self.rank_stride // tiles.rank
        both_tiles = RECORD * self._max_row_tiles(tiles.rows) * rank_tiles
        sizes = [HEADER, self.max_rows, row_tiles, both_tiles]
        self._data = torch.zeros(sum(sizes), dtype=torch.int32, device=device)
        parts = torch.split(self._data, sizes)
        self.counts, self.rows, row_tile_data, tile_data = parts
        self.row_tiles, self.tiles = row_tile_data.view(-1, RECORD), tile_data.view(-1, RECORD)
        partials = tiles.shrink.max_splits * self.max_rows * max_slices * self.rank_stride
        self.partials = torch.empty(partials, dtype=torch.float32, device=device)

    def fill(self, segments: Sequence[tuple[int, Sequence[int]]], num_rows: int = 0) -> None:
        """Say which rows run on which slots in the steps that follow.

        Rows below ``num_rows`` that no segment names belong to the base model. The kernels that
        only add updates leave all other rows alone; those that compute something else besides
        leave out what lies beyond, such as the padding of a captured graph.

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
        row_tiles = self._row_tile_records({**rows_of, NO_SLOT: base})
        self._num_rows = sum(map(len, rows_of.values()))
        counts = [len(records) // RECORD for records in (heads, heads + tails, row_tiles)]
        data = array("i", counts + [0] * (HEADER - len(counts)))
        for rows in (*rows_of.values(), base):
            data.extend(rows)
        data.extend([0] * (HEADER + self.max_rows - len(data)))
        data.extend(row_tiles)
        data.extend([0] * (HEADER + self.max_rows + self.row_tiles.numel() - len(data)))
        data.extend(heads)
        data.extend(tails)
        host = torch.frombuffer(data, dtype=torch.int32)
        if self._data.is_cuda:
            host = host.pin_memory()
        self._data[: len(data)].copy_(host, non_blocking=True)

    def _tile_records(self, rows_of: Mapping[int, array[int]]) -> tuple[array[int], array[int]]:
        heads, tails = array("i"), array("i")
        first = 0
        for slot, rows in rows_of.items():
            rank_tiles = -(-self.table.max_rank(slot) // self.shape.rank)
            for start in range(0, len(rows), self.shape.rows):
                count = min(self.shape.rows, len(rows) - start)
                heads.extend((slot, first + start, count, 0))
                for rank_tile in range(1, rank_tiles):
                    tails.extend((slot, first + start, count, rank_tile))
            first += len(rows)
        return heads, tails

    def _row_tile_records(self, rows_of: Mapping[int, array[int]]) -> array[int]:
        records, first, size = array("i"), 0, self.shape.fused.rows
        for slot, rows in rows_of.items():
            for start in range(0, len(rows), size):
                records.extend((slot, first + start, min(size, len(rows) - start), 0))
            first += len(rows)
        return records

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
