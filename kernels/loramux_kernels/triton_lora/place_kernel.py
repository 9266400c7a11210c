"""The kernel of ``place_``; importing it imports Triton."""

from __future__ import annotations

import triton.language as tl
from torch import Tensor

from loramux_kernels.jit import device_function, kernel

BLOCK = 4096
ROWS = 256
COLUMNS = 16


def launch(arena: Tensor, source: Tensor, records: Tensor, programs: int) -> None:
    """One launch over all matrices, ``programs`` of them for each."""
    _place[(programs, len(records))](
        arena, source, records, FIELDS=records.shape[1],
        BLOCK=BLOCK, ROWS=ROWS, COLUMNS=COLUMNS, num_warps=8,
    )  # fmt: skip


# fmt: off
@kernel(unspecialized=("arena", "source", "records"))
def _place(
    arena: tl.tensor, source: tl.tensor, records: tl.tensor,
    FIELDS: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
) -> None:
    record = records + tl.program_id(1) * FIELDS
    matrix = source + tl.load(record)
    rows = tl.load(record + 1)
    columns = tl.load(record + 2)
    target = arena + tl.load(record + 3)
    stride = tl.load(record + 4)
    if stride == 0:
        _copy(matrix, target, rows * columns, BLOCK)
    else:
        _transpose(matrix, target, rows, columns, stride, ROWS, COLUMNS)


@device_function
def _copy(matrix: tl.tensor, target: tl.tensor, size: tl.tensor, BLOCK: tl.constexpr) -> None:
    step = tl.num_programs(0).to(tl.int64) * BLOCK
    for start in tl.range(tl.program_id(0).to(tl.int64) * BLOCK, size, step):
        offset = start + tl.arange(0, BLOCK)
        values = tl.load(matrix + offset, mask=offset < size)
        tl.store(target + offset, values.to(target.dtype.element_ty), mask=offset < size)


@device_function
def _transpose(
    matrix: tl.tensor, target: tl.tensor, rows: tl.tensor, columns: tl.tensor, stride: tl.tensor,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
) -> None:
    across = tl.cdiv(columns, COLUMNS)
    tiles = tl.cdiv(rows, ROWS) * across
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0)):
        row = tile // across * ROWS + tl.arange(0, ROWS)
        column = tile % across * COLUMNS + tl.arange(0, COLUMNS)
        mask = (row < rows)[:, None] & (column < columns)[None, :]
        values = tl.load(matrix + row[:, None] * columns + column[None, :], mask=mask)
        at = target + row[:, None] + column[None, :] * stride
        tl.store(at, values.to(target.dtype.element_ty), mask=mask)
# fmt: on
