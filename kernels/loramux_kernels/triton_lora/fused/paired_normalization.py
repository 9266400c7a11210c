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
    matrix,
    num_programs,
    site_update,
    update_arguments,
)
from loramux_kernels.triton_lora.fused.normalized_row import add_normalize_row
from loramux_kernels.triton_lora.projection import PackedProjection
from loramux_kernels.triton_lora.tiles import PairedNormalization
from loramux_kernels.triton_lora.update import rows_of_b
from loramux_kernels.triton_lora.work_list import LoRAWork


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
    arguments = update_arguments(projection, work, len(y)) | {"RANK": shape.rank}
    registers = min(shape.max_registers, 65536 // (32 * warps))
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
    partials: tl.tensor, arena: tl.tensor, site_records: tl.tensor,
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
    programs = tl.num_programs(0)
    # Asked for before the number of tiles is known, which comes no sooner. In steps of all
    # programs, so that a program seldom gets only pairs that are empty, or none.
    unit = tl.program_id(0)
    slot, number, next_number = _pair(row_tiles, tile_rows, unit, PAIRS)
    rank, granule, scaling = site_update(site_records, unit // PAIRS, slot, num_sites, first_site)
    stop = tl.load(counts + 2) * PAIRS
    for unit in tl.range(tl.program_id(0), stop, programs, num_stages=1):
        if number >= 0:
            _add_normalize_pair(
                out, y, residual, partials, matrix(arena, granule, GRANULE), rank, scaling,
                number.to(tl.int64),
                tl.where(next_number < 0, number, next_number).to(tl.int64),
                exists, exists & (next_number >= 0), weight, eps,
                num_splits, split_stride, rank_stride, WIDTH, PLUS_ONE, RANK, SPLITS, OVERLAP,
            )
        following = tl.minimum(unit + programs, stop - 1)
        slot, number, next_number = _pair(row_tiles, tile_rows, following, PAIRS)
        rank, granule, scaling = site_update(
            site_records, following // PAIRS, slot, num_sites, first_site
        )
    # Also where there was nothing to do.
    wait_for_kernel_ahead(OVERLAP)
    let_next_begin(OVERLAP)


@device_function
def _pair(
    row_tiles: tl.tensor, tile_rows: tl.tensor, unit: tl.tensor, PAIRS: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Slot (-1: none) and the two rows of a unit, -1 where there is none."""
    at = tile_rows + unit * 2
    return tl.load(row_tiles + unit // PAIRS * 4), tl.load(at), tl.load(at + 1)


@device_function
def _add_normalize_pair(  # noqa: PLR0917
    out: tl.tensor, y: tl.tensor, residual: tl.tensor, partials: tl.tensor, b: tl.tensor,
    rank: tl.tensor, scaling: tl.tensor, number: tl.tensor, next_number: tl.tensor,
    exists: tl.tensor, next_exists: tl.tensor, weight: tl.tensor, eps: tl.tensor,
    num_splits: tl.tensor, split_stride: tl.tensor, rank_stride: tl.tensor,
    WIDTH: tl.constexpr, PLUS_ONE: tl.constexpr, RANK: tl.constexpr, SPLITS: tl.constexpr,
    OVERLAP: tl.constexpr,
) -> None:
    column = tl.arange(0, exists.shape[0])
    index, next_index = number * WIDTH + column, next_number * WIDTH + column
    # Matrices are complete before a step begins: they are on their way while shrink still runs.
    part = rows_of_b(b + column, exists, 0, rank, WIDTH, RANK)
    next_part = rows_of_b(b + column, exists, RANK, rank, WIDTH, RANK)
    wait_for_kernel_ahead(OVERLAP)
    update = tl.zeros([exists.shape[0]], tl.float32)
    next_update = tl.zeros([exists.shape[0]], tl.float32)
    hidden, next_hidden = partials + number * rank_stride, partials + next_number * rank_stride
    for first in tl.range(0, rank, RANK, num_stages=1):
        # Asked for now, needed in the round after the next.
        after = rows_of_b(b + column, exists, first + 2 * RANK, rank, WIDTH, RANK)
        vector = _components(hidden, first, rank, scaling, num_splits, split_stride, RANK, SPLITS)
        next_vector = _components(
            next_hidden, first, rank, scaling, num_splits, split_stride, RANK, SPLITS
        )
        update += tl.sum(part.to(tl.float32) * vector[:, None], 0)
        next_update += tl.sum(part.to(tl.float32) * next_vector[:, None], 0)
        part, next_part = next_part, after
    # All is loaded before anything is stored: no load moves ahead of a store by itself.
    values = tl.load(y + index, mask=exists, other=0.0)
    before = tl.load(residual + index, mask=exists, other=0.0)
    next_values = tl.load(y + next_index, mask=next_exists, other=0.0)
    next_before = tl.load(residual + next_index, mask=next_exists, other=0.0)
    gain = tl.load(weight + column, mask=exists, other=0.0)
    if rank > 0:
        values = (values.to(tl.float32) + update).to(values.dtype)
        next_values = (next_values.to(tl.float32) + next_update).to(values.dtype)
    add_normalize_row(out, residual, index, exists, values, before, gain, eps, WIDTH, PLUS_ONE)
    add_normalize_row(
        out, residual, next_index, next_exists, next_values, next_before, gain, eps,
        WIDTH, PLUS_ONE,
    )


@device_function
def _components(  # noqa: PLR0917
    hidden: tl.tensor, first: tl.tensor, rank: tl.tensor, scaling: tl.tensor,
    num_splits: tl.tensor, split_stride: tl.tensor, RANK: tl.constexpr, SPLITS: tl.constexpr,
) -> tl.tensor:
    """``RANK`` components of one row's vector from the ``first``, added up and scaled."""
    component = first + tl.arange(0, RANK)
    split = tl.arange(0, SPLITS)
    mask = (split < num_splits)[:, None] & (component < rank)[None, :]
    at = hidden + split[:, None] * split_stride + component[None, :]
    return tl.sum(tl.load(at, mask=mask, other=0.0), 0) * scaling
# fmt: on
