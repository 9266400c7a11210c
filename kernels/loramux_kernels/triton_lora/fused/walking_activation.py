"""Gated activation of a packed product after its updates, for many rows of each adapter.

A program takes a block of columns and walks down the rows of an adapter: it holds the adapter's B
for those columns, and loads the rows of the next tile before it computes those of the present one.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from loramux_kernels.blocks.layout import Activation
from loramux_kernels.jit import device_function, kernel
from loramux_kernels.overlap import let_next_begin, wait_for_kernel_ahead
from loramux_kernels.triton_blocks.activation import gated
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
from loramux_kernels.triton_lora.update import rank_sums, rows_of_b, updated
from loramux_kernels.triton_lora.work_list import LoRAWork
from loramux_kernels.tuned.lora_shapes import WalkingActivation


def activate_updated_walking(
    gate_up: Tensor,
    projection: PackedProjection,
    work: LoRAWork,
    kind: Activation,
    shape: WalkingActivation,
) -> Tensor:
    """Computed as ``activate_updated`` says, for a tensor that it has checked."""
    width = projection.out_features // 2
    out = torch.empty((len(gate_up), width), dtype=gate_up.dtype, device=gate_up.device)
    units = len(work.row_tiles) * triton.cdiv(width, shape.columns)
    _activate_walking[(num_programs(out.device, shape.programs_per_sm, units),)](
        out, gate_up, WIDTH=width, COLUMNS=shape.columns, KIND=kind,
        **update_arguments(projection, work, len(gate_up)),
        **launch_options(work, out.device, shape.warps, shape.max_registers),
    )  # fmt: skip
    return out


# fmt: off
@kernel(unspecialized=UNSPECIALIZED)
def _activate_walking(  # noqa: PLR0917
    out: tl.tensor, gate_up: tl.tensor,
    partials: tl.tensor, arena: tl.tensor, site_records: tl.tensor,
    counts: tl.tensor, row_tiles: tl.tensor, tile_rows: tl.tensor, num_splits: tl.tensor,
    split_stride: tl.tensor, rank_stride: tl.tensor, first_site: tl.tensor, num_sites: tl.tensor,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr, KIND: tl.constexpr,
    GRANULE: tl.constexpr, ROWS: tl.constexpr, RANK: tl.constexpr, SPLITS: tl.constexpr,
    SLICES: tl.constexpr, WHOLE: tl.constexpr, OVERLAP: tl.constexpr,
) -> None:
    # Gates and the rest are slices of their own, or halves of the only one.
    tl.static_assert(SLICES <= 2)
    B_WIDTH: tl.constexpr = 2 * WIDTH // SLICES
    num_tiles = tl.load(counts + 2)
    unit, stop = own_share(num_tiles * triton.cdiv(WIDTH, COLUMNS))
    wait_for_kernel_ahead(OVERLAP)
    while unit < stop:
        block = unit // num_tiles
        first = unit - block * num_tiles
        slot = tl.load(row_tiles + first * 4)
        last = first + tl.minimum(tl.load(row_tiles + first * 4 + 2), stop - unit)
        unit += last - first
        column = block * COLUMNS + tl.arange(0, COLUMNS)
        gate_rank, gate_granule, gate_scaling = site_update(
            site_records, first, slot, num_sites, first_site
        )
        up_rank, up_granule, up_scaling = site_update(
            site_records, first, slot, num_sites, first_site + SLICES - 1
        )
        gate_b = matrix(arena, gate_granule, GRANULE)
        up_b = matrix(arena, up_granule, GRANULE) + (2 - SLICES) * WIDTH
        if gate_rank + up_rank > 0:
            _walk(
                out, gate_up, column, tile_rows, first, last,
                partials, gate_b, gate_rank, gate_scaling,
                partials + (SLICES - 1) * rank_stride, up_b, up_rank, up_scaling,
                SLICES * rank_stride, num_splits, split_stride,
                WIDTH, B_WIDTH, KIND, ROWS, RANK, SPLITS,
            )
        else:
            _walk_base(out, gate_up, column, tile_rows, first, last, WIDTH, KIND, ROWS)
    # Also where there was nothing to do.
    wait_for_kernel_ahead(OVERLAP)
    let_next_begin(OVERLAP)


@device_function
def _walk(  # noqa: PLR0917
    out: tl.tensor, gate_up: tl.tensor, column: tl.tensor,
    tile_rows: tl.tensor, first: tl.tensor, last: tl.tensor,
    gate_hidden: tl.tensor, gate_b: tl.tensor, gate_rank: tl.tensor, gate_scaling: tl.tensor,
    up_hidden: tl.tensor, up_b: tl.tensor, up_rank: tl.tensor, up_scaling: tl.tensor,
    row_stride: tl.tensor, num_splits: tl.tensor, split_stride: tl.tensor,
    WIDTH: tl.constexpr, B_WIDTH: tl.constexpr, KIND: tl.constexpr, ROWS: tl.constexpr,
    RANK: tl.constexpr, SPLITS: tl.constexpr,
) -> None:
    """Tiles of an adapter that updates the gates or the rest, perhaps not both."""
    has_column = column < WIDTH
    gate_part = rows_of_b(gate_b + column, has_column, 0, gate_rank, B_WIDTH, RANK)
    up_part = rows_of_b(up_b + column, has_column, 0, up_rank, B_WIDTH, RANK)
    index = _tile(tile_rows, first, last, ROWS)
    next_index = _tile(tile_rows, first + 1, last, ROWS)
    gate, up = _load(gate_up, index, column, WIDTH)
    gate_sums, up_sums = _rank_sums(
        gate_hidden, gate_rank, up_hidden, up_rank, index, row_stride, num_splits, split_stride,
        RANK, SPLITS,
    )
    for tile in tl.range(first, last, num_stages=1):
        # Asked for now, needed in the next round.
        after = _tile(tile_rows, tile + 2, last, ROWS)
        next_gate, next_up = _load(gate_up, next_index, column, WIDTH)
        next_gate_sums, next_up_sums = _rank_sums(
            gate_hidden, gate_rank, up_hidden, up_rank, next_index, row_stride, num_splits,
            split_stride, RANK, SPLITS,
        )
        gate = updated(gate, gate_sums, gate_rank, gate_scaling, gate_part)
        up = updated(up, up_sums, up_rank, up_scaling, up_part)
        mask = (index >= 0)[:, None] & has_column[None, :]
        target = tl.maximum(index, 0).to(tl.int64)[:, None] * WIDTH + column[None, :]
        tl.store(out + target, gated(gate, up, KIND), mask=mask)
        gate, up, gate_sums, up_sums = next_gate, next_up, next_gate_sums, next_up_sums
        index, next_index = next_index, after


@device_function
def _walk_base(  # noqa: PLR0917
    out: tl.tensor, gate_up: tl.tensor, column: tl.tensor,
    tile_rows: tl.tensor, first: tl.tensor, last: tl.tensor,
    WIDTH: tl.constexpr, KIND: tl.constexpr, ROWS: tl.constexpr,
) -> None:
    """Tiles that no adapter updates."""
    index = _tile(tile_rows, first, last, ROWS)
    next_index = _tile(tile_rows, first + 1, last, ROWS)
    gate, up = _load(gate_up, index, column, WIDTH)
    for tile in tl.range(first, last, num_stages=1):
        after = _tile(tile_rows, tile + 2, last, ROWS)
        next_gate, next_up = _load(gate_up, next_index, column, WIDTH)
        mask = (index >= 0)[:, None] & (column < WIDTH)[None, :]
        target = tl.maximum(index, 0).to(tl.int64)[:, None] * WIDTH + column[None, :]
        tl.store(out + target, gated(gate, up, KIND), mask=mask)
        gate, up, index, next_index = next_gate, next_up, next_index, after


@device_function
def _rank_sums(  # noqa: PLR0917
    gate_hidden: tl.tensor, gate_rank: tl.tensor, up_hidden: tl.tensor, up_rank: tl.tensor,
    index: tl.tensor, row_stride: tl.tensor, num_splits: tl.tensor, split_stride: tl.tensor,
    RANK: tl.constexpr, SPLITS: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    at = tl.maximum(index, 0).to(tl.int64) * row_stride
    exists = index >= 0
    gate = rank_sums(
        gate_hidden + at, exists & (gate_rank > 0), 0, num_splits, split_stride, RANK, SPLITS
    )
    up = rank_sums(
        up_hidden + at, exists & (up_rank > 0), 0, num_splits, split_stride, RANK, SPLITS
    )
    return gate, up


@device_function
def _tile(
    tile_rows: tl.tensor, tile: tl.tensor, last: tl.tensor, ROWS: tl.constexpr
) -> tl.tensor:
    """Rows of a tile, -1 where there are none."""
    row = tile * ROWS + tl.arange(0, ROWS)
    return tl.load(tile_rows + row, mask=row < last * ROWS, other=-1)


@device_function
def _load(
    gate_up: tl.tensor, index: tl.tensor, column: tl.tensor, WIDTH: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    mask = (index >= 0)[:, None] & (column < WIDTH)[None, :]
    row = tl.maximum(index, 0).to(tl.int64)[:, None] * (2 * WIDTH)
    source = gate_up + row + column[None, :]
    return tl.load(source, mask=mask, other=0.0), tl.load(source + WIDTH, mask=mask, other=0.0)
# fmt: on
