"""What all kernels that add an update are launched with, and how they find it."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from loramux_kernels.jit import device_function
from loramux_kernels.multiprocessors import num_multiprocessors
from loramux_kernels.overlap import overlapping
from loramux_kernels.triton_lora.arena import GRANULE
from loramux_kernels.triton_lora.projection import PackedProjection
from loramux_kernels.triton_lora.work_list import LoRAWork

UNSPECIALIZED = (
    "counts", "row_tiles", "tile_rows", "num_splits", "first_site", "num_sites",
)  # fmt: skip


def update_arguments(projection: PackedProjection, work: LoRAWork, num_rows: int) -> dict[str, Any]:
    """Where the rank vectors of a projection lie, and B, and which rows they belong to."""
    tiles = work.shape.for_rows(num_rows)
    rank = work.fused_rank(tiles)
    _, num_splits = tiles.shrink.split(projection.in_features, num_rows, projection.num_slices)
    return {
        "partials": work.partials,
        "arena": work.table.arena,
        "site_records": work.site_records,
        "counts": work.counts,
        "row_tiles": work.row_tiles,
        "tile_rows": work.tile_rows,
        "num_splits": num_splits,
        "split_stride": num_rows * projection.num_slices * work.rank_stride,
        "rank_stride": work.rank_stride,
        "first_site": projection.first_site,
        "num_sites": work.table.num_sites,
        "GRANULE": GRANULE,
        "ROWS": work.shape.fused.rows,
        "RANK": rank,
        "WHOLE": work.max_rank <= rank,
        "SPLITS": triton.next_power_of_2(num_splits),
        "SLICES": projection.num_slices,
    }


def launch_options(
    work: LoRAWork, device: torch.device, warps: int, max_registers: int
) -> dict[str, Any]:
    """Also whether to begin while shrink still runs, as ``loramux_kernels.overlap`` says."""
    overlap = overlapping(device) if work.shape.overlap else {"OVERLAP": False}
    return {"num_warps": warps, "maxnreg": max_registers, **overlap}


def num_programs(device: torch.device, programs_per_sm: int, max_units: int) -> int:
    """Programs that share the units of work, no more than there can be.

    An odd number, so that a program that takes every so-manieth unit gets all kinds of them: units
    differ by their place in a tile.
    """
    programs = programs_per_sm * num_multiprocessors(device)
    return max(1, min(programs - 1 + programs % 2, max_units))


# fmt: off
@device_function
def rows_of_tile(
    row_tiles: tl.tensor, tile_rows: tl.tensor, number: tl.tensor, ROWS: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """Slot (-1: none) and rows of the batch (-1: none) of a tile."""
    rows = tl.load(tile_rows + number * ROWS + tl.arange(0, ROWS))
    return tl.load(row_tiles + number * 4), rows


@device_function
def site_update(
    site_records: tl.tensor, number: tl.tensor, slot: tl.tensor, num_sites: tl.tensor,
    site: tl.tensor,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Rank, granule of B and scaling of a row tile's adapter at a site; rank 0 for no slot.

    All is loaded at once, before it is known whether there is such a tile: any tile that was
    named before, or none, is in the lists' room.
    """
    record = site_records + (number * num_sites + site) * 4
    rank, granule = tl.load(record + 2), tl.load(record + 1)
    scaling = tl.load(record + 3).to(tl.float32, bitcast=True)
    return tl.where(slot < 0, 0, rank), granule, scaling


@device_function
def matrix(arena: tl.tensor, granule: tl.tensor, GRANULE: tl.constexpr) -> tl.tensor:
    """Address of a matrix."""
    return arena + granule.to(tl.int64) * GRANULE
# fmt: on
