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


@dataclass(frozen=True, eq=False)
class RowSegment:
    """Many rows of one adapter: ``rows`` is ``[count]``, or a slice where they lie together."""

    rows: Tensor | slice


def add_grouped_lora_(
    y: Tensor, x: Tensor, groups: RowGroups, a: Tensor, b: Tensor, scaling: Tensor
) -> None:
    """Add ``scaling * (x A) B`` to the rows of ``y`` that belong to an adapter, in place.

    Two batched products whatever the number of adapters. Rows of no adapter get -0.0 added,
    which changes no bit of any float.

    Shapes:
        y: ``[num_rows, out_features]``; x: ``[num_rows, in_features]``.
        a: ``[slots, in_features, rank]``; b: ``[slots, rank, out_features]``, zero-padded to the
            largest rank among the slots.
        scaling: ``[slots, 1, 1]``.
    """
    cells = x.index_select(0, groups.rows).view(groups.slots, groups.width, -1)
    _add_cells_(y, torch.bmm(cells, a).mul_(scaling), groups, b)


def add_grouped_embedding_lora_(
    y: Tensor, ids: Tensor, groups: RowGroups, a: Tensor, b: Tensor, scaling: Tensor
) -> None:
    """The same for an embedding, where ``x A`` is a look-up: ``a`` is ``[slots, vocab, rank]``."""
    slot = torch.arange(groups.slots, device=ids.device).repeat_interleave(groups.width)
    hidden = a[slot, ids.index_select(0, groups.rows)].view(groups.slots, groups.width, -1)
    _add_cells_(y, hidden * scaling, groups, b)


def _add_cells_(y: Tensor, hidden: Tensor, groups: RowGroups, b: Tensor) -> None:
    """Expand ``hidden`` (``[slots, width, rank]``) and add each cell to the row that takes it."""
    count = groups.slots * groups.width
    cells = torch.empty((count + 1, y.shape[1]), dtype=y.dtype, device=y.device)
    torch.bmm(hidden, b, out=cells[:count].view(groups.slots, groups.width, -1))
    cells[count].fill_(-0.0)
    y.add_(cells.index_select(0, groups.cell_of_row))


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
