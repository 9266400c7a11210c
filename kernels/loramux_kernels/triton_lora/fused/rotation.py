"""Rotation and storing of a packed product after the updates of its queries, keys and values."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from loramux_kernels.blocks.rotation import Rotation
from loramux_kernels.jit import device_function, kernel
from loramux_kernels.overlap import let_next_begin, wait_for_kernel_ahead
from loramux_kernels.triton_blocks.rotation import (
    check_rotation,
    rotate_group,
    rotation_arguments,
    rotation_warps,
)
from loramux_kernels.triton_lora.fused.launch import (
    UNSPECIALIZED,
    launch_options,
    matrix,
    num_programs,
    rows_of_tile,
    site_update,
    update_arguments,
)
from loramux_kernels.triton_lora.fused.updated_heads import (
    rotate_heads_updated,
    store_values_updated,
)
from loramux_kernels.triton_lora.projection import PackedProjection
from loramux_kernels.triton_lora.work_list import LoRAWork


def rotate_and_store_updated_(
    qkv: Tensor, projection: PackedProjection, work: LoRAWork, rotation: Rotation
) -> Tensor:
    """``rotate_and_store_`` of the product with the updates that ``shrink`` has prepared.

    Shapes:
        qkv: ``[rows, row_width]``, not written; returns: ``[rows, num_heads, head_dim]``.

    Raises:
        ValueError: a tensor has gaps or another shape.
    """
    layout, cache = rotation.layout, rotation.cache
    shape = work.shape.for_rows(len(qkv)).fused.rotation
    positions, cos, sin, slots = rotation.positions, rotation.cos, rotation.sin, rotation.slots
    check_rotation(qkv, positions, cos, sin, layout, cache, slots)
    queries = qkv.new_empty((len(qkv), layout.num_heads, layout.head_dim))
    parts = triton.cdiv(layout.num_heads, shape.heads)
    parts += 2 * triton.cdiv(layout.num_kv_heads, shape.heads)
    programs = num_programs(qkv.device, shape.programs_per_sm, len(work.row_tiles) * parts)
    _rotate_updated[(programs,)](
        queries, cache.keys, cache.values, qkv, positions, slots, cos, sin, HEADS=shape.heads,
        **rotation_arguments(layout), **update_arguments(projection, work, len(qkv)),
        # As without updates: a norm then adds up a row of the base model in the same order.
        **launch_options(work, qkv.device, rotation_warps(layout), shape.max_registers),
    )  # fmt: skip
    return queries


# fmt: off
@kernel(unspecialized=("positions", "slots", *UNSPECIALIZED))
def _rotate_updated(  # noqa: PLR0917
    queries: tl.tensor, key_cache: tl.tensor, value_cache: tl.tensor, qkv: tl.tensor,
    positions: tl.tensor, slots: tl.tensor, cos: tl.tensor, sin: tl.tensor,
    q_weight: tl.tensor, k_weight: tl.tensor, q_eps: tl.tensor, k_eps: tl.tensor,
    partials: tl.tensor, arena: tl.tensor, site_records: tl.tensor,
    counts: tl.tensor, row_tiles: tl.tensor, tile_rows: tl.tensor, num_splits: tl.tensor,
    split_stride: tl.tensor, rank_stride: tl.tensor, first_site: tl.tensor, num_sites: tl.tensor,
    NUM_HEADS: tl.constexpr, NUM_KV_HEADS: tl.constexpr, DIM: tl.constexpr, HALF: tl.constexpr,
    GROUP: tl.constexpr, Q_PLUS_ONE: tl.constexpr, K_PLUS_ONE: tl.constexpr, HEADS: tl.constexpr,
    GRANULE: tl.constexpr, ROWS: tl.constexpr, RANK: tl.constexpr, SPLITS: tl.constexpr,
    SLICES: tl.constexpr, WHOLE: tl.constexpr, OVERLAP: tl.constexpr,
) -> None:
    # Queries, keys and values are slices of their own, or parts of the only one.
    tl.static_assert(SLICES == 1 or SLICES == 3)  # noqa: PLR1714
    QUERIES: tl.constexpr = NUM_HEADS * DIM
    KEYS: tl.constexpr = NUM_KV_HEADS * DIM
    PACKED: tl.constexpr = SLICES == 1
    WIDTH: tl.constexpr = QUERIES + 2 * KEYS
    Q_B_WIDTH: tl.constexpr = WIDTH if PACKED else QUERIES
    K_B_WIDTH: tl.constexpr = WIDTH if PACKED else KEYS
    QUERY_PARTS: tl.constexpr = triton.cdiv(NUM_HEADS, HEADS)
    KEY_PARTS: tl.constexpr = triton.cdiv(NUM_KV_HEADS, HEADS)
    PARTS: tl.constexpr = QUERY_PARTS + 2 * KEY_PARTS
    GROUPS: tl.constexpr = triton.cdiv(NUM_HEADS, GROUP) + 2 * triton.cdiv(NUM_KV_HEADS, GROUP)
    programs = tl.num_programs(0)
    # Asked for before the number of tiles is known, which comes no sooner.
    number, site = _site_of_unit(tl.program_id(0), PARTS, QUERY_PARTS, KEY_PARTS, SLICES)
    slot, rows = rows_of_tile(row_tiles, tile_rows, number, ROWS)
    rank, granule, scaling = site_update(site_records, number, slot, num_sites, first_site + site)
    stop = tl.load(counts + 2) * PARTS
    for unit in tl.range(tl.program_id(0), stop, programs, num_stages=1):
        part = unit % PARTS
        if slot < 0:
            first = unit // PARTS * ROWS
            count = tl.load(row_tiles + unit // PARTS * 4 + 1)
            wait_for_kernel_ahead(OVERLAP)
            for item in tl.range(part, count * GROUPS, PARTS, num_stages=1):
                rotate_group(
                    queries, key_cache, value_cache, qkv, positions, slots, cos, sin,
                    q_weight, k_weight, q_eps, k_eps,
                    tl.load(tile_rows + first + item // GROUPS).to(tl.int64), item % GROUPS,
                    NUM_HEADS, NUM_KV_HEADS, DIM, HALF, GROUP, Q_PLUS_ONE, K_PLUS_ONE,
                )
        else:
            index, exists = tl.maximum(rows, 0).to(tl.int64), rows >= 0
            source = qkv + index * WIDTH
            hidden = partials + index * (SLICES * rank_stride)
            b = matrix(arena, granule, GRANULE)
            if part < QUERY_PARTS:
                rotate_heads_updated(
                    queries + index * QUERIES, exists, source, index, exists,
                    part * HEADS, NUM_HEADS, positions, cos, sin, q_weight, q_eps,
                    hidden, b, rank, scaling, num_splits, split_stride,
                    Q_B_WIDTH, DIM, HALF, HEADS, Q_PLUS_ONE, RANK, SPLITS, WHOLE, OVERLAP,
                )
            elif part < QUERY_PARTS + KEY_PARTS:
                KEY: tl.constexpr = 0 if PACKED else 1
                token = tl.load(slots + index, mask=exists, other=-1).to(tl.int64)
                rotate_heads_updated(
                    key_cache + token * KEYS, token >= 0, source + QUERIES, index, exists,
                    (part - QUERY_PARTS) * HEADS, NUM_KV_HEADS, positions, cos, sin, k_weight,
                    k_eps, hidden + KEY * rank_stride, b + PACKED * QUERIES, rank, scaling,
                    num_splits, split_stride,
                    K_B_WIDTH, DIM, HALF, HEADS, K_PLUS_ONE, RANK, SPLITS, WHOLE, OVERLAP,
                )
            else:
                VALUE: tl.constexpr = 0 if PACKED else 2
                token = tl.load(slots + index, mask=exists, other=-1).to(tl.int64)
                store_values_updated(
                    value_cache + token * KEYS, token >= 0, source + QUERIES + KEYS, exists,
                    (part - QUERY_PARTS - KEY_PARTS) * HEADS, NUM_KV_HEADS,
                    hidden + VALUE * rank_stride, b + PACKED * (QUERIES + KEYS), rank, scaling,
                    num_splits, split_stride, K_B_WIDTH, DIM, HEADS, RANK, SPLITS, WHOLE, OVERLAP,
                )
        following = tl.minimum(unit + programs, stop - 1)
        number, site = _site_of_unit(following, PARTS, QUERY_PARTS, KEY_PARTS, SLICES)
        slot, rows = rows_of_tile(row_tiles, tile_rows, number, ROWS)
        rank, granule, scaling = site_update(
            site_records, number, slot, num_sites, first_site + site
        )
    # Also where there was nothing to do.
    wait_for_kernel_ahead(OVERLAP)
    let_next_begin(OVERLAP)


@device_function
def _site_of_unit(
    unit: tl.tensor, PARTS: tl.constexpr, QUERY_PARTS: tl.constexpr, KEY_PARTS: tl.constexpr,
    SLICES: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Row tile of a unit, and which of the projection's slices updates it."""
    part = unit % PARTS
    after_queries = (part >= QUERY_PARTS).to(tl.int32)
    after_keys = (part >= QUERY_PARTS + KEY_PARTS).to(tl.int32)
    return unit // PARTS, (after_queries + after_keys) * (SLICES // 3)
# fmt: on
