"""Matrices from where the bus has left them to their places in the arena, in one launch."""

from __future__ import annotations

import torch
from torch import Tensor

from loramux_kernels.gpu import runs_kernels

PLACE_FIELDS = 5
"""Fields of one record: first element of the source, its rows, its columns, first element in the
arena, and the stride of a column there, or 0 where the matrix is not transposed."""

PROGRAMS_PER_MATRIX = 16
"""An adapter has a few hundred matrices, most of them of a hundred kilobytes."""


def place_(arena: Tensor, source: Tensor, records: Tensor) -> None:
    """Cast matrices to the arena's dtype and write them there, transposed where they are to be.

    Element ``[row, column]`` of a source matrix goes to ``first + row + column * stride``; without
    a stride, elements keep their order.

    Args:
        arena: flat.
        source: flat; its matrices are contiguous.
        records: int64 ``[matrices, PLACE_FIELDS]`` on the same device.
    """
    if not len(records):
        return
    if runs_kernels(arena.device):
        place_by_kernel_(arena, source, records)
        return
    for start, rows, columns, first, stride in records.tolist():
        matrix = source[start : start + rows * columns]
        if stride:
            target = torch.as_strided(arena, (rows, columns), (1, stride), first)
            target.copy_(matrix.view(rows, columns))
        else:
            arena[first : first + len(matrix)] = matrix


def place_by_kernel_(arena: Tensor, source: Tensor, records: Tensor) -> None:
    """``place_`` by the Triton kernel."""
    from loramux_kernels.triton_lora.place_kernel import launch

    launch(arena, source, records, PROGRAMS_PER_MATRIX)
