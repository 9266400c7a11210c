"""Expand: add ``scaling * (x A) B`` to the rows of each adapter, in place.

Rows of no adapter, and slices that an adapter leaves alone, are neither read nor written. The
rank vector is summed and scaled in float32 and enters the product with about 16 bits even where B
has 8; what is stored has been rounded once.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from loramux_kernels.jit import kernel
from loramux_kernels.multiprocessors import num_multiprocessors
from loramux_kernels.overlap import overlapping
from loramux_kernels.triton_lora.arena import GRANULE
from loramux_kernels.triton_lora.projection import PackedProjection
from loramux_kernels.triton_lora.sharing import own_share
from loramux_kernels.triton_lora.update import lora_update
from loramux_kernels.triton_lora.work_list import LoRAWork

UNSPECIALIZED = (
    "counts", "tiles", "tile_rows", "blocks", "num_blocks", "num_splits",
    "first_site", "num_sites", "num_slices",
)  # fmt: skip


def expand_(y: Tensor, projection: PackedProjection, work: LoRAWork) -> None:
    """Add the updates whose rank vectors ``shrink`` has left for the same projection and work.

    Args:
        y: ``[num_rows, out_features]``, rows contiguous in themselves, of the arena's dtype.
    """
    table, tiles = work.table, work.shape.for_rows(len(y))
    shape, blocks = tiles.expand, projection.blocks(tiles.expand.columns)
    _, num_splits = tiles.shrink.split(projection.in_features, len(y), projection.num_slices)
    programs = shape.programs_per_sm * num_multiprocessors(y.device)
    overlap = overlapping(y.device) if work.shape.overlap else {"OVERLAP": False}
    _expand[(programs,)](
        y, work.partials, table.arena, work.site_records, work.counts, work.tiles, work.tile_rows,
        blocks, y.stride(0), blocks.shape[0], num_splits,
        len(y) * projection.num_slices * work.rank_stride, work.rank_stride,
        projection.first_site, table.num_sites, projection.num_slices,
        GRANULE=GRANULE, UNIT=projection.unit,
        TILE_ROWS=work.shape.rows, PADDED=work.shape.fused.rows,
        ROWS=shape.rows, COLUMNS=shape.columns, RANK=shape.rank,
        SPLITS=triton.next_power_of_2(num_splits), STAGES=shape.stages,
        num_warps=shape.warps, **overlap,
    )  # fmt: skip


# fmt: off
@kernel(unspecialized=UNSPECIALIZED)
def _expand(  # noqa: PLR0917
    y: tl.tensor, partials: tl.tensor, arena: tl.tensor, site_records: tl.tensor,
    counts: tl.tensor, tiles: tl.tensor, tile_rows: tl.tensor, blocks: tl.tensor,
    y_stride: tl.tensor, num_blocks: tl.tensor, num_splits: tl.tensor,
    split_stride: tl.tensor, rank_stride: tl.tensor,
    first_site: tl.tensor, num_sites: tl.tensor, num_slices: tl.tensor,
    GRANULE: tl.constexpr, UNIT: tl.constexpr, TILE_ROWS: tl.constexpr, PADDED: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, RANK: tl.constexpr, SPLITS: tl.constexpr,
    STAGES: tl.constexpr, OVERLAP: tl.constexpr,
) -> None:
    PARTS: tl.constexpr = TILE_ROWS // ROWS
    start, stop = own_share(tl.load(counts) * (PARTS * num_blocks))
    for unit in tl.range(start, stop, num_stages=1):
        tile = tiles + unit // (PARTS * num_blocks) * 4
        row = unit // num_blocks % PARTS * ROWS + tl.arange(0, ROWS)
        block = blocks + unit % num_blocks * 4
        slice = tl.load(block)
        width = tl.load(block + 2) * UNIT
        column = tl.load(block + 1) * COLUMNS + tl.arange(0, COLUMNS)
        y_column = tl.load(block + 3) * UNIT + column
        first_tile = tl.load(tile + 1)
        record = site_records + (first_tile * num_sites + first_site + slice) * 4
        rank = tl.load(record + 2)
        b = arena + tl.load(record + 1).to(tl.int64) * GRANULE + column
        scaling = tl.load(record + 3).to(tl.float32, bitcast=True)
        exists = row < tl.load(tile + 2)
        place = first_tile * PADDED + row
        index = tl.load(tile_rows + place, mask=exists, other=0).to(tl.int64)
        if rank > 0:
            target = y + index[:, None] * y_stride + y_column[None, :]
            mask = exists[:, None] & (column < width)[None, :]
            if OVERLAP:
                tl.extra.cuda.gdc_wait()
            base = tl.load(target, mask=mask, other=0.0)
            hidden = partials + index * (num_slices * rank_stride) + slice * rank_stride
            update = lora_update(
                hidden, exists, b, column < width, width, rank, scaling, num_splits, split_stride,
                ROWS, COLUMNS, RANK, SPLITS, STAGES,
            )
            tl.store(target, (base.to(tl.float32) + update).to(base.dtype), mask=mask)
    if OVERLAP:
        # Also where there was nothing to do, as in shrink.
        tl.extra.cuda.gdc_wait()
# fmt: on
