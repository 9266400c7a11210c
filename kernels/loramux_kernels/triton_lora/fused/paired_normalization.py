"""Residual sum and norm of a packed product after its updates, for a few rows of each adapter.

A norm needs its whole row, which leaves no columns for other programs to take. So a program takes
few rows, and adds up their updates without tensor cores: what counts is how often B is read.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from loramux_kernels.blocks.layout import RMSNorm
from loramux_kernels.jit import device_function, kernel
from loramux_kernels.overlap import let_next_begin, wait_for_kernel_ahead
from loramux_kernels.triton_blocks.normalization import normalization_warps
from loramux_kernels.triton_lora.fused.launch import (
    UNSPECIALIZED,
    launch_options,
    num_programs,
    site_update,
    update_arguments,
)
from loramux_kernels.triton_lora.fused.normalized_row import add_normalize_row
from loramux_kernels.triton_lora.projection import PackedProjection
from loramux_kernels.triton_lora.sharing import own_share
from loramux_kernels.triton_lora.tiles import PairedNormalization
from loramux_kernels.triton_lora.update import read_ahead, rows_of_b
from loramux_kernels.triton_lora.work_list import LoRAWork

MAX_REGISTERS = 255
"""Of a thread, with which nothing spills to memory."""


def add_rms_norm_pairs_updated_(
    y: Tensor,
    residual: Tensor,
    projection: PackedProjection,
    work: LoRAWork,
    norm: RMSNorm,
    shape: PairedNormalization,
) -> Tensor:
    """Computed as ``add_rms_norm_updated_`` says, for tensors that it has checked."""
    out, block = torch.empty_like(y), triton.next_power_of_2(y.shape[1])
    warps = normalization_warps(block)
    units = len(work.row_tiles) * work.shape.fused.rows // 2
    # Sixteen warps have fewer registers each, and hold fewer rows of B at a time.
    arguments = update_arguments(projection, work, len(y)) | {"RANK": 8 if warps <= 8 else 4}
    registers = min(MAX_REGISTERS, 65536 // (32 * warps))
    _add_normalize_updated[(num_programs(y.device, shape.programs_per_sm, units),)](
        out, y, residual, norm.weight, norm.eps, WIDTH=y.shape[1], BLOCK=block,
        PLUS_ONE=norm.plus_one, **arguments,
        # As without updates: the norm then adds up a row of the base model in the same order.
        **launch_options(work, y.device, warps, registers),
    )  # fmt: skip
    return out


# fmt: off
@kernel(unspecialized=UNSPECIALIZED)
def _add_normalize_updated(  # noqa: PLR0917
    out: tl.tensor, y: tl.tensor, residual: tl.tensor, weight: tl.tensor, eps: tl.tensor,
    partials: tl.tensor, arena: tl.tensor, records: tl.tensor,
    counts: tl.tensor, row_tiles: tl.tensor, tile_rows: tl.tensor, num_splits: tl.tensor,
    split_stride: tl.tensor, rank_stride: tl.tensor, first_site: tl.tensor, num_sites: tl.tensor,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, PLUS_ONE: tl.constexpr,
    GRANULE: tl.constexpr, ROWS: tl.constexpr, RANK: tl.constexpr, SPLITS: tl.constexpr,
    SLICES: tl.constexpr, WHOLE: tl.constexpr, OVERLAP: tl.constexpr,
) -> None:
    tl.static_assert(SLICES == 1)
    PAIRS: tl.constexpr = ROWS // 2
    column = tl.arange(0, BLOCK)
    exists = column < WIDTH
    start, stop = own_share(tl.load(counts + 2) * PAIRS)
    gain = tl.load(weight + column, mask=exists, other=0.0)
    for unit in tl.range(start, stop, num_stages=1):
        tile = row_tiles + unit // PAIRS * 4
        row = unit % PAIRS * 2
        count = tl.load(tile + 1)
        if row < count:
            rank, b, scaling = site_update(
                records, arena, tl.load(tile), num_sites, first_site, GRANULE
            )
            has_next = row + 1 < count
            at = tile_rows + unit // PAIRS * ROWS + row
            number = tl.load(at).to(tl.int64)
            next_number = tl.load(at + has_next.to(tl.int32)).to(tl.int64)
            index, next_index = number * WIDTH + column, next_number * WIDTH + column
            if OVERLAP:
                read_ahead(b, WIDTH, WIDTH, rank, BLOCK, RANK)
                tl.extra.cuda.gdc_wait()
            # All is loaded before anything is stored: no load moves ahead of a store by itself.
            values = tl.load(y + index, mask=exists, other=0.0)
            before = tl.load(residual + index, mask=exists, other=0.0)
            next_exists = exists & has_next
            next_values = tl.load(y + next_index, mask=next_exists, other=0.0)
            next_before = tl.load(residual + next_index, mask=next_exists, other=0.0)
            if rank > 0:
                update = tl.zeros([BLOCK], tl.float32)
                next_update = tl.zeros([BLOCK], tl.float32)
                hidden = partials + number * rank_stride
                next_hidden = partials + next_number * rank_stride
                for first in tl.range(0, rank, RANK, num_stages=1):
                    part = rows_of_b(b + column, exists, first, rank, WIDTH, RANK).to(tl.float32)
                    update += _combined(
                        part, hidden, first, rank, scaling, num_splits, split_stride, RANK, SPLITS
                    )
                    next_update += _combined(
                        part, next_hidden, first, rank, scaling, num_splits, split_stride,
                        RANK, SPLITS,
                    )
                values = (values.to(tl.float32) + update).to(values.dtype)
                next_values = (next_values.to(tl.float32) + next_update).to(values.dtype)
            add_normalize_row(
                out, residual, index, exists, values, before, gain, eps, WIDTH, PLUS_ONE
            )
            add_normalize_row(
                out, residual, next_index, next_exists, next_values, next_before, gain, eps,
                WIDTH, PLUS_ONE,
            )
    # Also where there was nothing to do.
    wait_for_kernel_ahead(OVERLAP)
    let_next_begin(OVERLAP)


@device_function
def _combined(  # noqa: PLR0917
    part: tl.tensor, hidden: tl.tensor, first: tl.tensor, rank: tl.tensor, scaling: tl.tensor,
    num_splits: tl.tensor, split_stride: tl.tensor, RANK: tl.constexpr, SPLITS: tl.constexpr,
) -> tl.tensor:
    """Rows of B times one row's components from the ``first``, added up."""
    component = first + tl.arange(0, RANK)
    split = tl.arange(0, SPLITS)
    mask = (split < num_splits)[:, None] & (component < rank)[None, :]
    parts = tl.load(
        hidden + split[:, None] * split_stride + component[None, :], mask=mask, other=0.0
    )
    vector = tl.sum(parts, 0) * scaling
    return tl.sum(part * vector[:, None], 0)
# fmt: on
