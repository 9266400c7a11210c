"""Residual sum and norm of a packed product after its updates, for many rows of each adapter.

A norm needs its whole row, which leaves no columns for other programs to take. A program goes over
its rows twice: it leaves the sums in the residual, and then normalizes what it has left there,
which the GPU's cache still holds.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from loramux_kernels.blocks.layout import RMSNorm
from loramux_kernels.jit import device_function, kernel
from loramux_kernels.overlap import let_next_begin, wait_for_kernel_ahead
from loramux_kernels.triton_blocks.checks import require_contiguous, require_shape
from loramux_kernels.triton_blocks.normalization import (
    inverse_root,
    normalization_warps,
    normalized,
    rounded_sum,
    squares,
)
from loramux_kernels.triton_lora.fused.launch import (
    UNSPECIALIZED,
    launch_options,
    matrix,
    num_programs,
    site_update,
    update_arguments,
)
from loramux_kernels.triton_lora.projection import PackedProjection
from loramux_kernels.triton_lora.sharing import own_share
from loramux_kernels.triton_lora.update import rank_vector, rows_of_b, with_update
from loramux_kernels.triton_lora.work_list import LoRAWork


def add_rms_norm_updated_(
    y: Tensor, residual: Tensor, projection: PackedProjection, work: LoRAWork, norm: RMSNorm
) -> Tensor:
    """``add_rms_norm_`` of the product with the updates that ``shrink`` has prepared.

    Shapes:
        y: ``[rows, width]``, not written; residual, returns: the same.

    Raises:
        ValueError: a tensor has gaps or another shape, or the tiles have no such norm.
    """
    require_contiguous(y=y, residual=residual, weight=norm.weight)
    require_shape("residual", residual, y.shape)
    require_shape("weight", norm.weight, (y.shape[1],))
    shape = work.shape.for_rows(len(y)).fused.normalization
    if shape is None:
        raise ValueError("these tiles have no norm with updates: use apply_lora_ before the norm.")
    out, block = torch.empty_like(y), triton.next_power_of_2(y.shape[1])
    warps, parts = normalization_warps(block), work.shape.fused.rows // shape.rows
    arguments = update_arguments(projection, work, len(y))
    units = len(work.row_tiles) * parts
    _add_normalize_tile[(num_programs(y.device, shape.programs_per_sm, units),)](
        out, y, residual, norm.weight, norm.eps, WIDTH=y.shape[1], BLOCK=block,
        PLUS_ONE=norm.plus_one, PARTS=parts, COLUMNS=32 * warps, WIDE=128 * warps,
        **(arguments | {"ROWS": shape.rows}),
        # As without updates: the norm then adds up a row of the base model in the same order.
        **launch_options(work, y.device, warps, shape.max_registers),
    )  # fmt: skip
    return out


# fmt: off
@kernel(unspecialized=UNSPECIALIZED)
def _add_normalize_tile(  # noqa: PLR0917
    out: tl.tensor, y: tl.tensor, residual: tl.tensor, weight: tl.tensor, eps: tl.tensor,
    partials: tl.tensor, arena: tl.tensor, site_records: tl.tensor,
    counts: tl.tensor, row_tiles: tl.tensor, tile_rows: tl.tensor, num_splits: tl.tensor,
    split_stride: tl.tensor, rank_stride: tl.tensor, first_site: tl.tensor, num_sites: tl.tensor,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, PLUS_ONE: tl.constexpr, PARTS: tl.constexpr,
    COLUMNS: tl.constexpr, WIDE: tl.constexpr,
    GRANULE: tl.constexpr, ROWS: tl.constexpr, RANK: tl.constexpr, SPLITS: tl.constexpr,
    SLICES: tl.constexpr, WHOLE: tl.constexpr, OVERLAP: tl.constexpr,
) -> None:
    tl.static_assert(SLICES == 1)
    start, stop = own_share(tl.load(counts + 2) * PARTS)
    for unit in tl.range(start, stop, num_stages=1):
        tile = row_tiles + unit // PARTS * 4
        slot, count = tl.load(tile), tl.load(tile + 1)
        first = unit % PARTS * ROWS
        own_rows = tile_rows + unit // PARTS * (PARTS * ROWS) + first
        if slot < 0:
            wait_for_kernel_ahead(OVERLAP)
            for row in tl.range(0, tl.minimum(count - first, ROWS), num_stages=1):
                column = tl.arange(0, BLOCK)
                exists = column < WIDTH
                place = tl.load(own_rows + row).to(tl.int64) * WIDTH + column
                values = tl.load(y + place, mask=exists, other=0.0)
                before = tl.load(residual + place, mask=exists, other=0.0)
                gain = tl.load(weight + column, mask=exists, other=0.0)
                _add_normalize_row(
                    out, residual, place, exists, values, before, gain, eps, WIDTH, PLUS_ONE
                )
        elif first < count:
            rank, granule, scaling = site_update(
                site_records, unit // PARTS, slot, num_sites, first_site
            )
            b = matrix(arena, granule, GRANULE)
            row = tl.arange(0, ROWS)
            exists = first + row < count
            number = tl.maximum(tl.load(own_rows + row), 0).to(tl.int64)
            index = number * WIDTH
            hidden = partials + number * rank_stride
            wait_for_kernel_ahead(OVERLAP)
            inverse = _add_rows(
                y + index, residual + index, exists, hidden, b, rank, scaling, num_splits,
                split_stride, eps, WIDTH, ROWS, COLUMNS, RANK, SPLITS, WHOLE,
            )
            # What the other threads of the program have stored is loaded next.
            tl.debug_barrier()
            for first_column in tl.range(0, WIDTH, WIDE, num_stages=1):
                column = first_column + tl.arange(0, WIDE)
                mask = exists[:, None] & (column < WIDTH)[None, :]
                at = index[:, None] + column[None, :]
                values = tl.load(residual + at, mask=mask, other=0.0)
                gain = tl.load(weight + column, mask=column < WIDTH, other=0.0)[None, :]
                tl.store(out + at, normalized(values, gain, inverse, PLUS_ONE), mask=mask)
    # Also where there was nothing to do.
    wait_for_kernel_ahead(OVERLAP)
    let_next_begin(OVERLAP)


@device_function
def _add_normalize_row(  # noqa: PLR0917
    out: tl.tensor, residual: tl.tensor, index: tl.tensor, exists: tl.tensor, values: tl.tensor,
    before: tl.tensor, gain: tl.tensor, eps: tl.tensor,
    WIDTH: tl.constexpr, PLUS_ONE: tl.constexpr,
) -> None:
    """Store a row's sum, and its norm; its bits depend on the number of warps."""
    values = rounded_sum(before, values)
    tl.store(residual + index, values, mask=exists)
    inverse = inverse_root(tl.sum(squares(values), 0), eps, WIDTH)
    tl.store(out + index, normalized(values, gain, inverse, PLUS_ONE), mask=exists)


@device_function
def _add_rows(  # noqa: PLR0917
    y: tl.tensor, residual: tl.tensor, exists: tl.tensor, hidden: tl.tensor, b: tl.tensor,
    rank: tl.tensor, scaling: tl.tensor, num_splits: tl.tensor, split_stride: tl.tensor,
    eps: tl.tensor, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    RANK: tl.constexpr, SPLITS: tl.constexpr, WHOLE: tl.constexpr,
) -> tl.tensor:
    """Leave updated sums in the residual; ``[ROWS, 1]`` inverse roots of their mean squares."""
    vector = rank_vector(hidden, exists, 0, rank, scaling, num_splits, split_stride, RANK, SPLITS)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    values, before, part = _columns(y, residual, exists, b, 0, rank, WIDTH, COLUMNS, RANK)
    for first_column in tl.range(0, WIDTH, COLUMNS, num_stages=1):
        # Asked for now, needed in the next round.
        next_values, next_before, next_part = _columns(
            y, residual, exists, b, first_column + COLUMNS, rank, WIDTH, COLUMNS, RANK
        )
        column = first_column + tl.arange(0, COLUMNS)
        has_column = column < WIDTH
        values = with_update(
            values, vector, part, hidden, exists, b + column, has_column, WIDTH,
            rank, scaling, num_splits, split_stride, RANK, SPLITS, WHOLE,
        )
        values = rounded_sum(before, values)
        mask = exists[:, None] & has_column[None, :]
        tl.store(residual[:, None] + column[None, :], values, mask=mask)
        total += squares(values)
        values, before, part = next_values, next_before, next_part
    return inverse_root(tl.sum(total, 1), eps, WIDTH)[:, None]


@device_function
def _columns(  # noqa: PLR0917
    y: tl.tensor, residual: tl.tensor, exists: tl.tensor, b: tl.tensor, first: tl.tensor,
    rank: tl.tensor, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, RANK: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """What is added and what it is added to, from the ``first`` column, and B for it."""
    column = first + tl.arange(0, COLUMNS)
    has_column = column < WIDTH
    mask = exists[:, None] & has_column[None, :]
    values = tl.load(y[:, None] + column[None, :], mask=mask, other=0.0)
    before = tl.load(residual[:, None] + column[None, :], mask=mask, other=0.0)
    return values, before, rows_of_b(b + column, has_column, 0, rank, WIDTH, RANK)
# fmt: on
