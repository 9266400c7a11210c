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

from loramux_kernels.jit import device_function, kernel
from loramux_kernels.multiprocessors import num_multiprocessors
from loramux_kernels.overlap import overlapping
from loramux_kernels.triton_lora.arena import GRANULE
from loramux_kernels.triton_lora.projection import PackedProjection
from loramux_kernels.triton_lora.sharing import own_share
from loramux_kernels.triton_lora.tiles import ShrinkTiles
from loramux_kernels.triton_lora.work_list import LoRAWork

SHARED_BYTES = 220 << 10
"""Of a Hopper multiprocessor's 228 KB, of which each program needs some for itself."""
UNSPECIALIZED = ("counts", "rows", "tiles", "first_site", "num_sites", "num_slices", "num_splits")


def shrink(
    x: Tensor, projection: PackedProjection, work: LoRAWork, *, is_branch: bool = False
) -> None:
    """Leave the rank vectors of all rows that run on adapters in ``work.partials``.

    Args:
        x: ``[num_rows, in_features]``, rows contiguous in themselves, of the arena's dtype.
        is_branch: launched on a stream of its own, where no kernel is ahead to overlap with.
    """
    table, shape = work.table, work.shape.shrink
    split_features, num_splits = shape.split(projection.in_features, len(x))
    programs = shape.programs_per_sm * num_multiprocessors(x.device)
    slices = min(shape.slices, triton.next_power_of_2(projection.num_slices))
    stages = _stages(shape, work.shape.rows, slices * work.rank, x.element_size())
    overlaps = work.shape.overlap and not is_branch
    overlap = overlapping(x.device) if overlaps else {"OVERLAP": False}
    _shrink[(programs,)](
        work.partials, x, table.arena, table.records, work.counts, work.rows, work.tiles,
        x.stride(0), projection.in_features, split_features, num_splits,
        work.max_rows * projection.num_slices * work.rank_stride, work.rank_stride,
        projection.first_site, table.num_sites, projection.num_slices,
        GRANULE=GRANULE, ROWS=work.shape.rows, RANK=work.rank,
        SLICES=slices, FEATURES=shape.features, STAGES=stages,
        num_warps=shape.warps, **overlap,
    )  # fmt: skip


def _stages(shape: ShrinkTiles, rows: int, columns: int, element_size: int) -> int:
    """As many steps of the inner loop as fit into the shared memory of a program."""
    step = (rows + columns) * shape.features * element_size
    return max(2, min(shape.stages, SHARED_BYTES // shape.programs_per_sm // step))


# fmt: off
@kernel(unspecialized=UNSPECIALIZED)
def _shrink(  # noqa: PLR0917
    partials: tl.tensor, x: tl.tensor, arena: tl.tensor, records: tl.tensor,
    counts: tl.tensor, rows: tl.tensor, tiles: tl.tensor,
    x_stride: tl.tensor, in_features: tl.tensor, split_features: tl.tensor, num_splits: tl.tensor,
    split_stride: tl.tensor, rank_stride: tl.tensor,
    first_site: tl.tensor, num_sites: tl.tensor, num_slices: tl.tensor,
    GRANULE: tl.constexpr, ROWS: tl.constexpr, RANK: tl.constexpr, SLICES: tl.constexpr,
    FEATURES: tl.constexpr, STAGES: tl.constexpr, OVERLAP: tl.constexpr,
) -> None:
    units_per_tile = tl.cdiv(num_slices, SLICES) * num_splits
    start, stop = own_share(tl.load(counts + 1) * units_per_tile)
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()
    for unit in tl.range(start, stop, num_stages=1):
        tile = tiles + unit // units_per_tile * 4
        split = unit % num_splits
        first_row = tl.load(tile + 1)
        column = tl.arange(0, SLICES * RANK)
        slice = unit % units_per_tile // num_splits * SLICES + column // RANK
        component = tl.load(tile + 3) * RANK + column % RANK
        record = records + (tl.load(tile) * num_sites + first_site + slice) * 4
        rank = tl.load(record + 2, mask=slice < num_slices, other=0)
        granule = tl.load(record, mask=slice < num_slices, other=0).to(tl.int64)
        row = tl.arange(0, ROWS)
        exists = row < tl.load(tile + 2)
        index = tl.load(rows + first_row + row, mask=exists, other=0).to(tl.int64)
        if tl.max(rank - component, axis=0) > 0:
            if OVERLAP:
                tl.extra.cuda.gdc_wait()
            part = _product(
                x + index * x_stride, exists,
                arena + granule * GRANULE + component * in_features, component < rank,
                split * split_features, split_features, in_features,
                ROWS, SLICES * RANK, FEATURES, STAGES,
            )
            target = partials + split * split_stride + slice * rank_stride + component
            at = target[None, :] + index[:, None] * (num_slices * rank_stride)
            tl.store(at, part, mask=exists[:, None] & (component < rank)[None, :])
    if OVERLAP:
        # Also where there was nothing to do: what follows waits for this kernel alone, and must
        # not begin before those that this one has overtaken are complete.
        tl.extra.cuda.gdc_wait()


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
