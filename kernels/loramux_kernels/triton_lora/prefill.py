"""One adapter's rows alone: two products of the library that has the fastest ones."""

from __future__ import annotations

import torch
from torch import Tensor

from loramux_kernels.triton_lora.adapter_table import AdapterTable
from loramux_kernels.triton_lora.projection import PackedProjection
from loramux_kernels.triton_lora.work_list import SingleAdapter

MIN_DENSE_RANK = 64
"""Below it the grouped kernels, which read ``x`` once for all slices, are faster."""

MIN_DENSE_ROWS = 256


def is_dense(single: SingleAdapter | None, table: AdapterTable) -> bool:
    """Whether one adapter owns the step and is wide and long enough for plain products."""
    if single is None or single.stop - single.start < MIN_DENSE_ROWS:
        return False
    return table.max_rank(single.slot) >= MIN_DENSE_RANK


def add_dense_(
    y: Tensor, x: Tensor, projection: PackedProjection, table: AdapterTable, single: SingleAdapter
) -> None:
    """Add one adapter's updates to its rows; the rank vector is rounded to the dtype of ``x``."""
    rows = slice(single.start, single.stop)
    for index, (start, width) in enumerate(zip(projection.starts, projection.widths, strict=True)):
        pair = table.pair(single.slot, projection.first_site + index, projection.in_features, width)
        if pair is not None:
            a, b, scaling = pair
            hidden = torch.mm(x[rows], a.t())
            y[rows, start : start + width].addmm_(hidden, b, alpha=scaling)
