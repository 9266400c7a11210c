"""LoRA updates of one layer's output for a flat batch of rows, in torch.

Rows are tokens. Each row belongs to one adapter or to none; a row that belongs to none is left
bit for bit as it was.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class RowGroups:
    """Rows of several adapters, a few each, padded to a rectangle of ``slots`` by ``width`` cells.

    Slots number the adapters in the stacked weights. A cell of padding computes some row that
    exists, and its result is never read.

    Shapes:
        rows: ``[slots * width]``, the row each cell computes.
        cell_of_row: ``[num_rows]``, the cell whose result a row takes; ``slots * width``, the
            neutral cell, for rows that take none.
    """

    rows: Tensor
    cell_of_row: Tensor
    slots: int
    width: int

    def weights(self, stacked: Tensor) -> Tensor:
        return stacked

    def gather(self, x: Tensor) -> Tensor:
        """Rows of ``x`` by cell, ``[slots, width, ...]``."""
        return x.index_select(0, self.rows).view(self.slots, self.width, *x.shape[1:])

    def add_product_(self, y: Tensor, hidden: Tensor, b: Tensor) -> None:
        """Add ``hidden @ b``, ``[slots, width, out_features]``, to the rows of ``y`` by cell.

        Rows of no adapter get -0.0 added, which changes no bit of any float.
        """
        count = self.slots * self.width
        cells = torch.empty((count + 1, y.shape[1]), dtype=y.dtype, device=y.device)
        torch.bmm(hidden, b, out=cells[:count].view(self.slots, self.width, -1))
        cells[count].fill_(-0.0)
        y.add_(cells.index_select(0, self.cell_of_row))


@dataclass(frozen=True, eq=False)
class RowRectangle:
    """Rows of several adapters, equally many each, that lie in the order of successive slots.

    The common case of a running batch: nothing has to be gathered, padded or put back. Other rows
    than ``start`` to ``start + slots * width`` are not touched.
    """

    start: int
    first_slot: int
    slots: int
    width: int

    def weights(self, stacked: Tensor) -> Tensor:
        return stacked[self.first_slot : self.first_slot + self.slots]

    def gather(self, x: Tensor) -> Tensor:
        """Rows of ``x`` by cell, ``[slots, width, ...]``."""
        rows = x[self.start : self.start + self.slots * self.width]
        return rows.view(self.slots, self.width, *x.shape[1:])

    def add_product_(self, y: Tensor, hidden: Tensor, b: Tensor) -> None:
        """Add ``hidden @ b``, ``[slots, width, out_features]``, to the rows of ``y``."""
        self.gather(y).baddbmm_(hidden, b)


@dataclass(frozen=True, eq=False)
class RowSegment:
    """Many rows of one adapter: ``rows`` is ``[count]``, or a slice where they lie together."""

    rows: Tensor | slice


def add_grouped_lora_(
    y: Tensor, x: Tensor, groups: RowGroups | RowRectangle, a: Tensor, b: Tensor, scaling: Tensor
) -> None:
    """Add ``scaling * (x A) B`` to the rows of ``y`` that belong to an adapter, in place.

    Two batched products whatever the number of adapters.

    Shapes:
        y: ``[num_rows, out_features]``; x: ``[num_rows, in_features]``.
        a: ``[slots, in_features, rank]``; b: ``[slots, rank, out_features]``, zero-padded to the
            largest rank among the slots.
        scaling: ``[slots, 1, 1]``.
    """
    hidden = torch.bmm(groups.gather(x), groups.weights(a)).mul_(groups.weights(scaling))
    groups.add_product_(y, hidden, groups.weights(b))


def add_grouped_embedding_lora_(
    y: Tensor, ids: Tensor, groups: RowGroups | RowRectangle, a: Tensor, b: Tensor, scaling: Tensor
) -> None:
    """The same for an embedding, where ``x A`` is a look-up: ``a`` is ``[slots, vocab, rank]``."""
    slot = torch.arange(groups.slots, device=ids.device)[:, None]
    hidden = groups.weights(a)[slot, groups.gather(ids)] * groups.weights(scaling)
    groups.add_product_(y, hidden, groups.weights(b))


def add_segment_lora_(
    y: Tensor, x: Tensor, segment: RowSegment, a: Tensor, b: Tensor, scaling: float
) -> None:
    """Add one adapter's update to its rows: two products without padding.

    Shapes:
        a: ``[in_features, rank]``; b: ``[rank, out_features]``.
    """
    _add_to_rows_(y, torch.mm(_rows(x, segment), a), segment, b, scaling)


def add_segment_embedding_lora_(
    y: Tensor, ids: Tensor, segment: RowSegment, a: Tensor, b: Tensor, scaling: float
) -> None:
    """The same for an embedding: ``a`` is ``[vocab, rank]``."""
    hidden = torch.nn.functional.embedding(_rows(ids, segment), a)
    _add_to_rows_(y, hidden, segment, b, scaling)


def _rows(x: Tensor, segment: RowSegment) -> Tensor:
    return x[segment.rows]


def _add_to_rows_(
    y: Tensor, hidden: Tensor, segment: RowSegment, b: Tensor, scaling: float
) -> None:
    if isinstance(segment.rows, slice):
        y[segment.rows].addmm_(hidden, b, alpha=scaling)
    else:
        y.index_add_(0, segment.rows, torch.mm(hidden, b), alpha=scaling)
