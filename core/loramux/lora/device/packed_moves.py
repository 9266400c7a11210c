"""Matrices that lie in one stretch of host memory, cut into pieces by arithmetic on tables."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from loramux.lora.device.pieces import ALIGNMENT, DIRECT_DTYPES, Fields, Piece, Run
from loramux.lora.packed_weights import DTYPES, Integers, PackedPairs
from loramux.lora.site import SiteKind

_KIND = 0
_START = 1
_END = 2
_FIELDS = 3
"""Columns of the table below: a matrix's type, its first byte and the one behind its last, and
from here on its rows, its columns, its first element in the arena and the stride there."""

_MAX_WASTE = 1.25
"""How much more than its matrices a stretch of memory may hold before gathering is cheaper."""


class PackedMoves:
    """What ``Move`` says, of all matrices of an adapter at once and in the order of memory.

    Whole stretches are copied, gaps included, instead of matrix by matrix, and nothing is done
    once for each matrix in Python.

    Args:
        offsets: the element of the arena that each pair's A and B begin at, ``[pairs, 2]``.
    """

    def __init__(self, pairs: PackedPairs, offsets: Integers) -> None:
        self._content = pairs.content
        table = np.concatenate([_halves_a(pairs, offsets[:, 0]), _halves_b(pairs, offsets[:, 1])])
        self._table = table[np.argsort(table[:, _START])]

    def fit(self, max_bytes: int) -> bool:
        """Whether this way is open: types the device casts from, and no matrix to be cut."""
        sizes = self._table[:, _END] - self._table[:, _START]
        return (
            len(sizes) > 0
            and bool((self._table[:, _KIND] < len(DIRECT_DTYPES)).all())
            and int(sizes.max()) + 2 * ALIGNMENT <= max_bytes
            and int(self._table[-1, _END] - self._table[0, _START]) <= _MAX_WASTE * sizes.sum()
        )

    def cut(self, max_bytes: int, max_records: int) -> Iterator[Piece]:
        """Pieces of at most so many bytes and records, each one stretch of memory."""
        starts, ends = self._table[:, _START], self._table[:, _END]
        done = 0
        while done < len(starts):
            room = int(starts[done]) + max_bytes - ALIGNMENT
            stop = min(int(np.searchsorted(ends, room, side="right")), done + max_records)
            yield self._piece(self._table[done:stop])
            done = stop

    def _piece(self, table: Integers) -> Piece:
        start, end = int(table[0, _START]), int(table[-1, _END])
        address = self._content.data_ptr() + start
        position = address % ALIGNMENT
        kinds = table[:, _KIND]
        records: dict[torch.dtype, Fields] = {}
        for kind in np.unique(kinds).tolist():
            rows = table[kinds == kind]
            sources = (rows[:, _START] - start + position) // DTYPES[kind].itemsize
            records[DTYPES[kind]] = np.column_stack([sources, rows[:, _FIELDS:]]).ravel()
        return Piece(
            runs=[Run(address, end - start, position)],
            records=records,
            matrices=[self._content],
            num_bytes=position + end - start,
            num_records=len(table),
        )


def _halves_a(pairs: PackedPairs, first: Integers) -> Integers:
    """Those of embeddings lie transposed in the arena, the others as they are."""
    rank, sizes = pairs.table[:, 1], pairs.sizes[:, 0]
    is_embedding = np.array([site.kind is SiteKind.EMBEDDING for site in pairs.sites], np.int64)
    rows = np.where(is_embedding, rank, sizes)
    columns = sizes // np.maximum(rows, 1)
    return _table(pairs, 0, rows, columns, first, rank * is_embedding)


def _halves_b(pairs: PackedPairs, first: Integers) -> Integers:
    """All lie transposed in the arena."""
    rank = pairs.table[:, 1]
    rows = pairs.sizes[:, 1] // np.maximum(rank, 1)
    return _table(pairs, 1, rows, rank, first, rows)


def _table(
    pairs: PackedPairs,
    half: int,
    rows: Integers,
    columns: Integers,
    first: Integers,
    stride: Integers,
) -> Integers:
    start, kind = pairs.table[:, 2 + 2 * half], pairs.table[:, 3 + 2 * half]
    end = start + pairs.sizes[:, half] * pairs.item_bytes[:, half]
    return np.column_stack([kind, start, end, rows, columns, first, stride])
