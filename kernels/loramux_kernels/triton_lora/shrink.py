"""Shrink: ``x A`` for the rows of each adapter, in parts that expand adds up.

The input features are cut into splits, so that a few rows keep the whole GPU reading. Splits
write to places of their own, in float32: no sum depends on which program ends first, and nothing
has to be zeroed before. How a row is cut depends on the layer and on how many rows a step has,
never on which adapters its neighbours run on.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from loramux_kernels.gpu import gpu_of
from loramux_kernels.jit import device_function, kernel
from loramux_kernels.multiprocessors import num_multiprocessors
from loramux_kernels.overlap import overlapping
from loramux_kernels.triton_lora.arena import GRANULE
from loramux_kernels.triton_lora.projection import PackedProjection
from loramux_kernels.triton_lora.work_list import LoRAWork

UNSPECIALIZED = (
    "counts", "tiles", "tile_rows", "num_tiles", "first_site", "num_sites", "num_slices",
    "num_splits",
)  # fmt: skip


def shrink(
    x: Tensor, projection: PackedProjection, work: LoRAWork, *, is_branch: bool = False
) -> None:
    """Leave the rank vectors of all rows that run on adapters in ``work.partials``.

    Args:
        x: ``[num_rows, in_features]``, rows contiguous in themselves, of the arena's dtype.
        is_branch: launched on a stream of its own, where no kernel is ahead to overlap with.
    """
    tiles, num_slices = work.shape.for_rows(len(x)), projection.num_slices
    shape = tiles.shrink
    split_features, num_splits = shape.split(projection.in_features, len(x), num_slices)
    slices = min(shape.slices, triton.next_power_of_2(num_slices))
    columns, gpu = slices * work.rank, gpu_of(x.device)
    stages = shape.stages_on(gpu, tiles.rows, columns, x.element_size())
    overlaps = work.shape.overlap and not is_branch
    overlap = overlapping(x.device) if overlaps else {"OVERLAP": False}
    parts = work.shape.rows // tiles.rows
    units = len(work.tiles) * triton.cdiv(num_slices, slices) * num_splits * parts
    _shrink[(min(shape.programs_per_sm * num_multiprocessors(x.device), units),)](
        work.partials, x, work.table.arena, work.site_records, work.counts, work.tiles,
        work.tile_rows,
        x.stride(0), projection.in_features, split_features, num_splits, len(work.row_tiles),
        len(x) * num_slices * work.rank_stride, work.rank_stride,
        projection.first_site, work.table.num_sites, num_slices,
        GRANULE=GRANULE, PADDED=work.shape.fused.rows, PARTS=parts, ROWS=tiles.rows,
        RANK=work.rank, SLICES=slices, FEATURES=shape.features, STAGES=stages,
        DIRECT=work.shape.fused.rows == tiles.rows and parts == 1,
        num_warps=shape.warps, maxnreg=shape.max_registers, **overlap,
    )  # fmt: skip


# fmt: off
@kernel(unspecialized=UNSPECIALIZED)
def _shrink(  # noqa: PLR0917
    partials: tl.tensor, x: tl.tensor, arena: tl.tensor, site_records: tl.tensor,
    counts: tl.tensor, tiles: tl.tensor, tile_rows: tl.tensor,
    x_stride: tl.tensor, in_features: tl.tensor, split_features: tl.tensor, num_splits: tl.tensor,
    num_tiles: tl.tensor, split_stride: tl.tensor, rank_stride: tl.tensor,
    first_site: tl.tensor, num_sites: tl.tensor, num_slices: tl.tensor,
    GRANULE: tl.constexpr, PADDED: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr,
    RANK: tl.constexpr, SLICES: tl.constexpr, FEATURES: tl.constexpr, STAGES: tl.constexpr,
    DIRECT: tl.constexpr, OVERLAP: tl.constexpr,
) -> None:
    groups = tl.cdiv(num_slices, SLICES)
    units_per_tile = groups * num_splits * PARTS
    programs = tl.num_programs(0)
    column = tl.arange(0, SLICES * RANK)
    unit = tl.program_id(0)
    # Asked for before the number of tiles is known, which comes no sooner.
    index, rank_tile, rank, a = _described(
        tiles, tile_rows, site_records, unit // units_per_tile, unit // (groups * num_splits),
        _slices(unit // num_splits % groups, column, SLICES, RANK), num_tiles,
        num_slices, num_sites, first_site, PADDED, PARTS, ROWS, DIRECT,
    )
    stop = tl.load(counts + 1) * units_per_tile
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()
    for unit in tl.range(tl.program_id(0), stop, programs, num_stages=1):
        split = unit % num_splits
        slice = _slices(unit // num_splits % groups, column, SLICES, RANK)
        component = rank_tile * RANK + column % RANK
        exists = index >= 0
        has_row = tl.max(index, 0) >= 0
        if (tl.max(rank - component, axis=0) > 0) & has_row:
            if OVERLAP:
                tl.extra.cuda.gdc_wait()
            row = tl.maximum(index, 0).to(tl.int64)
            part = _product(
                x + row * x_stride, exists,
                arena + a.to(tl.int64) * GRANULE + component * in_features, component < rank,
                split * split_features, split_features, in_features,
                ROWS, SLICES * RANK, FEATURES, STAGES,
            )
            target = partials + split * split_stride + slice * rank_stride + component
            at = target[None, :] + row[:, None] * (num_slices * rank_stride)
            tl.store(at, part, mask=exists[:, None] & (component < rank)[None, :])
        following = tl.minimum(unit + programs, stop - 1)
        index, rank_tile, rank, a = _described(
            tiles, tile_rows, site_records, following // units_per_tile,
            following // (groups * num_splits),
            _slices(following // num_splits % groups, column, SLICES, RANK), num_tiles,
            num_slices, num_sites, first_site, PADDED, PARTS, ROWS, DIRECT,
        )
    if OVERLAP:
        # Also where there was nothing to do: what follows waits for this kernel alone, and must
        # not begin before those that this one has overtaken are complete.
        tl.extra.cuda.gdc_wait()


@device_function
def _slices(
    group: tl.tensor, column: tl.tensor, SLICES: tl.constexpr, RANK: tl.constexpr
) -> tl.tensor:
    """The slice of each column; one number where there is but one."""
    if SLICES == 1:  # noqa: SIM108  # a choice while compiling
        slices = group
    else:
        slices = group * SLICES + column // RANK
    return slices


@device_function
def _described(  # noqa: PLR0917
    tiles: tl.tensor, tile_rows: tl.tensor, site_records: tl.tensor, number: tl.tensor,
    numbered_part: tl.tensor, slice: tl.tensor, num_tiles: tl.tensor,
    num_slices: tl.tensor, num_sites: tl.tensor, first_site: tl.tensor,
    PADDED: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr, DIRECT: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Of a tile: rows (-1: none), rank tile, and of its slices the ranks and granules of A.

    ``DIRECT``: tiles have the rows of row tiles, and those of rank tile 0 their numbers too. Their
    rows and records are asked for without waiting for what the list says.
    """
    tile = tiles + number * 4
    first, count, rank_tile = tl.load(tile + 1), tl.load(tile + 2), tl.load(tile + 3)
    row = numbered_part % PARTS * ROWS + tl.arange(0, ROWS)
    site = first_site + slice
    has_slice = slice < num_slices
    if DIRECT:
        head = tl.minimum(number, num_tiles - 1)
        index = tl.load(tile_rows + head * PADDED + row)
        rank, a = _records(site_records + (head * num_sites + site) * 4, has_slice)
        if rank_tile > 0:
            index = tl.load(tile_rows + first * PADDED + row)
            rank, a = _records(site_records + (first * num_sites + site) * 4, has_slice)
    else:
        index = tl.load(tile_rows + first * PADDED + row, mask=row < count, other=-1)
        rank, a = _records(site_records + (first * num_sites + site) * 4, has_slice)
    return index, rank_tile, rank, a


@device_function
def _records(record: tl.tensor, has_slice: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Ranks, 0 for no slice, and granules of A."""
    rank = tl.load(record + 2, mask=has_slice, other=0)
    return rank, tl.load(record, mask=has_slice, other=0)


@device_function
def _product(  # noqa: PLR0917
    x: tl.tensor, has_row: tl.tensor, a: tl.tensor, has_column: tl.tensor,
    first: tl.tensor, count: tl.tensor, in_features: tl.tensor,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, FEATURES: tl.constexpr, STAGES: tl.constexpr,
) -> tl.tensor:
    """``[ROWS, COLUMNS]`` over ``count`` features, from rows of ``x`` and rows of ``a``."""
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    offset = tl.arange(0, FEATURES)
    for start in tl.range(first, first + count, FEATURES, num_stages=STAGES):
        feature = start + offset
        inside = (feature < in_features)[None, :]
        has_x, has_a = has_row[:, None] & inside, has_column[:, None] & inside
        x_tile = tl.load(x[:, None] + feature[None, :], mask=has_x, other=0.0)
        a_tile = tl.load(a[:, None] + feature[None, :], mask=has_a, other=0.0)
        total = tl.dot(x_tile, tl.trans(a_tile), total, input_precision="ieee")
    return total
# fmt: on
