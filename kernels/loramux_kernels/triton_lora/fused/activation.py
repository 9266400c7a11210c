"""Gated activation of a packed product after the updates of its gates and of what they multiply."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from loramux_kernels.blocks.layout import Activation
from loramux_kernels.jit import device_function, kernel
from loramux_kernels.overlap import let_next_begin, wait_for_kernel_ahead
from loramux_kernels.triton_blocks.activation import gated
from loramux_kernels.triton_blocks.checks import require_contiguous
from loramux_kernels.triton_lora.fused.launch import (
    UNSPECIALIZED,
    launch_options,
    matrix,
    num_programs,
    rows_of_tile,
    site_update,
    update_arguments,
)
from loramux_kernels.triton_lora.fused.walking_activation import activate_updated_walking
from loramux_kernels.triton_lora.projection import PackedProjection
from loramux_kernels.triton_lora.update import rank_vector, rows_of_b, with_update
from loramux_kernels.triton_lora.work_list import LoRAWork
from loramux_kernels.tuned.lora_shapes import WalkingActivation


def activate_updated(
    gate_up: Tensor, projection: PackedProjection, work: LoRAWork, kind: Activation
) -> Tensor:
    """``gated_activation`` of the product with the updates that ``shrink`` has prepared.

    Shapes:
        gate_up: ``[rows, 2 * width]``, not written; returns: ``[rows, width]``.

    Raises:
        ValueError: the tensor has gaps.
    """
    require_contiguous(gate_up=gate_up)
    width = projection.out_features // 2
    shape = work.shape.for_rows(len(gate_up)).fused.activation
    if isinstance(shape, WalkingActivation):
        return activate_updated_walking(gate_up, projection, work, kind, shape)
    out = torch.empty((len(gate_up), width), dtype=gate_up.dtype, device=gate_up.device)
    units = len(work.row_tiles) * triton.cdiv(width, shape.columns * shape.steps)
    _activate_updated[(num_programs(out.device, shape.programs_per_sm, units),)](
        out, gate_up, WIDTH=width, COLUMNS=shape.columns, STEPS=shape.steps, KIND=kind,
        **update_arguments(projection, work, len(gate_up)),
        **launch_options(work, out.device, shape.warps, shape.max_registers),
    )  # fmt: skip
    return out


# fmt: off
@kernel(unspecialized=UNSPECIALIZED)
def _activate_updated(  # noqa: PLR0917
    out: tl.tensor, gate_up: tl.tensor,
    partials: tl.tensor, arena: tl.tensor, site_records: tl.tensor,
    counts: tl.tensor, row_tiles: tl.tensor, tile_rows: tl.tensor, num_splits: tl.tensor,
    split_stride: tl.tensor, rank_stride: tl.tensor, first_site: tl.tensor, num_sites: tl.tensor,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr, STEPS: tl.constexpr, KIND: tl.constexpr,
    GRANULE: tl.constexpr, ROWS: tl.constexpr, RANK: tl.constexpr, SPLITS: tl.constexpr,
    SLICES: tl.constexpr, WHOLE: tl.constexpr, OVERLAP: tl.constexpr,
) -> None:
    # Gates and the rest are slices of their own, or halves of the only one.
    tl.static_assert(SLICES <= 2)
    SPAN: tl.constexpr = COLUMNS * STEPS
    SPANS: tl.constexpr = triton.cdiv(WIDTH, SPAN)
    programs = tl.num_programs(0)
    number = tl.program_id(0) // SPANS
    # Asked for before the number of tiles is known, which comes no sooner.
    slot, rows = rows_of_tile(row_tiles, tile_rows, number, ROWS)
    gate_rank, gate_granule, gate_scaling = site_update(
        site_records, number, slot, num_sites, first_site
    )
    up_rank, up_granule, up_scaling = site_update(
        site_records, number, slot, num_sites, first_site + SLICES - 1
    )
    stop = tl.load(counts + 2) * SPANS
    for unit in tl.range(tl.program_id(0), stop, programs, num_stages=1):
        # Asked for now, needed in the next round.
        number = tl.minimum(unit + programs, stop - 1) // SPANS
        slot, next_rows = rows_of_tile(row_tiles, tile_rows, number, ROWS)
        next_gate_rank, next_gate_granule, next_gate_scaling = site_update(
            site_records, number, slot, num_sites, first_site
        )
        next_up_rank, next_up_granule, next_up_scaling = site_update(
            site_records, number, slot, num_sites, first_site + SLICES - 1
        )
        _activate_span(
            out, gate_up, tl.maximum(rows, 0).to(tl.int64), rows >= 0, unit % SPANS * SPAN,
            partials, matrix(arena, gate_granule, GRANULE), gate_rank, gate_scaling,
            partials + (SLICES - 1) * rank_stride,
            matrix(arena, up_granule, GRANULE) + (2 - SLICES) * WIDTH, up_rank, up_scaling,
            SLICES * rank_stride, num_splits, split_stride,
            WIDTH, 2 * WIDTH // SLICES, COLUMNS, STEPS, KIND, RANK, SPLITS, WHOLE, OVERLAP,
        )
        rows, gate_rank, gate_granule = next_rows, next_gate_rank, next_gate_granule
        gate_scaling, up_rank = next_gate_scaling, next_up_rank
        up_granule, up_scaling = next_up_granule, next_up_scaling
    # Also where there was nothing to do.
    wait_for_kernel_ahead(OVERLAP)
    let_next_begin(OVERLAP)


@device_function
def _activate_span(  # noqa: PLR0917
    out: tl.tensor, gate_up: tl.tensor, index: tl.tensor, exists: tl.tensor, first: tl.tensor,
    gate_hidden: tl.tensor, gate_b: tl.tensor, gate_rank: tl.tensor, gate_scaling: tl.tensor,
    up_hidden: tl.tensor, up_b: tl.tensor, up_rank: tl.tensor, up_scaling: tl.tensor,
    row_stride: tl.tensor, num_splits: tl.tensor, split_stride: tl.tensor,
    WIDTH: tl.constexpr, B_WIDTH: tl.constexpr, COLUMNS: tl.constexpr, STEPS: tl.constexpr,
    KIND: tl.constexpr, RANK: tl.constexpr, SPLITS: tl.constexpr, WHOLE: tl.constexpr,
    OVERLAP: tl.constexpr,
) -> None:
    """``STEPS`` times ``COLUMNS`` of a tile's rows, from the ``first`` on."""
    gate_hidden += index * row_stride
    up_hidden += index * row_stride
    column = first + tl.arange(0, COLUMNS)
    # Matrices are complete before a step begins: they are on their way while shrink still runs.
    gate_part = rows_of_b(gate_b + column, column < WIDTH, 0, gate_rank, B_WIDTH, RANK)
    up_part = rows_of_b(up_b + column, column < WIDTH, 0, up_rank, B_WIDTH, RANK)
    wait_for_kernel_ahead(OVERLAP)
    gate, up = gates_and_rest(gate_up, index, exists, column, WIDTH)
    gate_vector = rank_vector(
        gate_hidden, exists, 0, gate_rank, gate_scaling, num_splits, split_stride, RANK, SPLITS
    )
    up_vector = rank_vector(
        up_hidden, exists, 0, up_rank, up_scaling, num_splits, split_stride, RANK, SPLITS
    )
    for step in tl.range(0, STEPS, num_stages=1):
        # Asked for now, needed in the next round.
        after = column + COLUMNS
        is_next = (after < WIDTH) & (step + 1 < STEPS)
        exist = exists & (step + 1 < STEPS)
        next_gate, next_up = gates_and_rest(gate_up, index, exist, after, WIDTH)
        next_gate_part = rows_of_b(gate_b + after, is_next, 0, gate_rank, B_WIDTH, RANK)
        next_up_part = rows_of_b(up_b + after, is_next, 0, up_rank, B_WIDTH, RANK)
        has_column = column < WIDTH
        gate = with_update(
            gate, gate_vector, gate_part, gate_hidden, exists, gate_b + column, has_column,
            B_WIDTH, gate_rank, gate_scaling, num_splits, split_stride, RANK, SPLITS, WHOLE,
        )
        up = with_update(
            up, up_vector, up_part, up_hidden, exists, up_b + column, has_column,
            B_WIDTH, up_rank, up_scaling, num_splits, split_stride, RANK, SPLITS, WHOLE,
        )
        target = out + index[:, None] * WIDTH + column[None, :]
        tl.store(target, gated(gate, up, KIND), mask=exists[:, None] & has_column[None, :])
        gate, up, gate_part, up_part = next_gate, next_up, next_gate_part, next_up_part
        column = after


@device_function
def gates_and_rest(
    gate_up: tl.tensor, index: tl.tensor, exists: tl.tensor, column: tl.tensor,
    WIDTH: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Some columns of the gates, and what they multiply."""
    mask = exists[:, None] & (column < WIDTH)[None, :]
    source = gate_up + index[:, None] * (2 * WIDTH) + column[None, :]
    return tl.load(source, mask=mask, other=0.0), tl.load(source + WIDTH, mask=mask, other=0.0)
# fmt: on
