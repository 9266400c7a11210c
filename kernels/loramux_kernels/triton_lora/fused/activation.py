"""Gated activation of a packed product after the updates of its gates and of what they multiply."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from loramux_kernels.blocks.layout import Activation
from loramux_kernels.jit import kernel
from loramux_kernels.overlap import let_next_begin, wait_for_kernel_ahead
from loramux_kernels.triton_blocks.activation import gated
from loramux_kernels.triton_blocks.checks import require_contiguous
from loramux_kernels.triton_lora.fused.launch import (
    UNSPECIALIZED,
    launch_options,
    num_programs,
    row_tile,
    site_update,
    update_arguments,
)
from loramux_kernels.triton_lora.fused.walking_activation import activate_updated_walking
from loramux_kernels.triton_lora.projection import PackedProjection
from loramux_kernels.triton_lora.sharing import own_share
from loramux_kernels.triton_lora.tiles import WalkingActivation
from loramux_kernels.triton_lora.update import rank_vector, read_ahead, rows_of_b, with_update
from loramux_kernels.triton_lora.work_list import LoRAWork


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
    width, shape = projection.out_features // 2, work.shape.fused.activation
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
    partials: tl.tensor, arena: tl.tensor, records: tl.tensor,
    counts: tl.tensor, row_tiles: tl.tensor, tile_rows: tl.tensor, num_splits: tl.tensor,
    split_stride: tl.tensor, rank_stride: tl.tensor, first_site: tl.tensor, num_sites: tl.tensor,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr, STEPS: tl.constexpr, KIND: tl.constexpr,
    GRANULE: tl.constexpr, ROWS: tl.constexpr, RANK: tl.constexpr, SPLITS: tl.constexpr,
    SLICES: tl.constexpr, WHOLE: tl.constexpr, OVERLAP: tl.constexpr,
) -> None:
    # Gates and the rest are slices of their own, or halves of the only one.
    tl.static_assert(SLICES <= 2)
    B_WIDTH: tl.constexpr = 2 * WIDTH // SLICES
    SPAN: tl.constexpr = COLUMNS * STEPS
    SPANS: tl.constexpr = triton.cdiv(WIDTH, SPAN)
    start, stop = own_share(tl.load(counts + 2) * SPANS)
    for unit in tl.range(start, stop, num_stages=1):
        slot, index, exists = row_tile(row_tiles, tile_rows, unit // SPANS, ROWS)
        gate_rank, gate_b, gate_scaling = site_update(
            records, arena, slot, num_sites, first_site, GRANULE
        )
        up_rank, up_b, up_scaling = site_update(
            records, arena, slot, num_sites, first_site + SLICES - 1, GRANULE
        )
        up_b += (2 - SLICES) * WIDTH
        first_column = unit % SPANS * SPAN
        if OVERLAP:
            read_ahead(gate_b + first_column, WIDTH - first_column, B_WIDTH, gate_rank, SPAN, RANK)
            read_ahead(up_b + first_column, WIDTH - first_column, B_WIDTH, up_rank, SPAN, RANK)
            tl.extra.cuda.gdc_wait()
        gate_hidden = partials + index * (SLICES * rank_stride)
        up_hidden = gate_hidden + (SLICES - 1) * rank_stride
        gate_vector = rank_vector(
            gate_hidden, exists, 0, gate_rank, gate_scaling, num_splits, split_stride, RANK, SPLITS
        )
        up_vector = rank_vector(
            up_hidden, exists, 0, up_rank, up_scaling, num_splits, split_stride, RANK, SPLITS
        )
        for step in tl.range(0, STEPS, num_stages=1):
            column = first_column + step * COLUMNS + tl.arange(0, COLUMNS)
            has_column = column < WIDTH
            mask = exists[:, None] & has_column[None, :]
            source = gate_up + index[:, None] * (2 * WIDTH) + column[None, :]
            # All is asked for before the first update, which is a branch, waits for its own.
            gate = tl.load(source, mask=mask, other=0.0)
            up = tl.load(source + WIDTH, mask=mask, other=0.0)
            gate_part = rows_of_b(gate_b + column, has_column, 0, gate_rank, B_WIDTH, RANK)
            up_part = rows_of_b(up_b + column, has_column, 0, up_rank, B_WIDTH, RANK)
            gate = with_update(
                gate, gate_vector, gate_part, gate_hidden, exists, gate_b + column, has_column,
                B_WIDTH, gate_rank, gate_scaling, num_splits, split_stride, RANK, SPLITS, WHOLE,
            )
            up = with_update(
                up, up_vector, up_part, up_hidden, exists, up_b + column, has_column,
                B_WIDTH, up_rank, up_scaling, num_splits, split_stride, RANK, SPLITS, WHOLE,
            )
            target = out + index[:, None] * WIDTH + column[None, :]
            tl.store(target, gated(gate, up, KIND), mask=mask)
    # Also where there was nothing to do.
    wait_for_kernel_ahead(OVERLAP)
    let_next_begin(OVERLAP)
# fmt: on
