"""Products of few rows, which take as long as reading their weights does.

A program reads some rows of the weights from one end to the other, many tiles ahead of the tensor
cores. No sum is cut into parts, so there is nothing to join and nothing to add in varying order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from loramux_kernels.jit import device_function, kernel
from loramux_kernels.overlap import let_next_begin, overlapping, wait_for_kernel_ahead
from loramux_kernels.triton_blocks.checks import require_shape
from loramux_kernels.tuned.products import StreamTiles

LINE = tl.constexpr(128)
"""Bytes of a line of the cache."""


def streamed_linear(x: Tensor, weight: Tensor, bias: Tensor | None, tiles: StreamTiles) -> Tensor:
    """``x W^T + b``, summed in float32.

    Shapes:
        x: ``[rows, in_features]``, no more rows than the tiles have; weight:
            ``[out_features, in_features]``; bias: ``[out_features]``.

    Raises:
        ValueError: a tensor has another shape.
    """
    (rows, width), columns = x.shape, weight.shape[0]
    require_shape("weight", weight, (columns, width))
    if rows > tiles.rows:
        raise ValueError(f"x has {rows} rows, but these tiles hold {tiles.rows}: take larger ones.")
    if bias is not None:
        require_shape("bias", bias, (columns,))
    out = torch.empty((rows, columns), dtype=x.dtype, device=x.device)
    _multiply[(triton.cdiv(columns, tiles.columns),)](
        out,
        TensorDescriptor.from_tensor(x, [tiles.rows, tiles.step]),
        TensorDescriptor.from_tensor(weight, [tiles.columns, tiles.step]),
        weight,
        bias,
        rows,
        columns,
        width,
        ROWS=tiles.rows,
        COLUMNS=tiles.columns,
        STEP=tiles.step,
        STAGES=tiles.stages,
        FETCH=tiles.fetch,
        WEIGHTS_FIRST=tiles.weights_first,
        num_warps=tiles.warps,
        **overlapping(x.device),
    )
    return out


# fmt: off
@kernel(unspecialized=("num_rows",))
def _multiply(  # noqa: PLR0917
    out: tl.tensor, x_tiles: tl.tensor, weight_tiles: tl.tensor, weight: tl.tensor, bias: tl.tensor,
    num_rows: tl.tensor, num_columns: tl.tensor, width: tl.tensor,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr, STAGES: tl.constexpr,
    FETCH: tl.constexpr, WEIGHTS_FIRST: tl.constexpr, OVERLAP: tl.constexpr,
) -> None:
    first = tl.program_id(0) * COLUMNS
    column = first + tl.arange(0, COLUMNS)
    has_column = column < num_columns
    if OVERLAP:
        _fetch(weight, first, num_columns, width, COLUMNS, FETCH)
    wait_for_kernel_ahead(OVERLAP)
    let_next_begin(OVERLAP)
    if WEIGHTS_FIRST:
        transposed = tl.zeros((COLUMNS, ROWS), tl.float32)
        for start in tl.range(0, width, STEP, num_stages=STAGES):
            weights = weight_tiles.load([first, start])
            transposed = tl.dot(weights, x_tiles.load([0, start]).T, transposed)
        total = transposed.T
    else:
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        for start in tl.range(0, width, STEP, num_stages=STAGES):
            weights = weight_tiles.load([first, start])
            total = tl.dot(x_tiles.load([0, start]), weights.T, total)
    if bias is not None:
        total += tl.load(bias + column, mask=has_column, other=0.0).to(tl.float32)[None, :]
    row = tl.arange(0, ROWS)
    target = out + row[:, None] * num_columns + column[None, :]
    mask = (row < num_rows)[:, None] & has_column[None, :]
    tl.store(target, total.to(out.dtype.element_ty), mask=mask)
# fmt: on


@device_function
def _fetch(
    weight: tl.tensor,
    first: tl.tensor,
    num_columns: tl.tensor,
    width: tl.tensor,
    COLUMNS: tl.constexpr,
    FETCH: tl.constexpr,
) -> None:
    """Ask for the beginnings of a program's rows, so that they are near when the loop begins."""
    if FETCH > 0:
        LINES: tl.constexpr = FETCH // LINE
        line = tl.arange(0, COLUMNS * LINES)
        row = tl.minimum(first + line // LINES, num_columns - 1).to(tl.int64)
        offset = tl.maximum(tl.minimum(line % LINES * LINE, width * 2 - LINE), 0)
        tl.inline_asm_elementwise(
            "{ prefetch.global.L2 [$1]; mov.u32 $0, 0; }",
            "=r,l",
            [weight.to(tl.int64) + row * (width * 2) + offset],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )
