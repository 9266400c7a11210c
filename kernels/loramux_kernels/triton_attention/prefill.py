"""Attention of chunks of new tokens over the paged cache (FlashAttention-2, arXiv:2307.08691).

A program attends a tile of successive queries, each with all query heads of one KV head, to all
keys they may see. Heads that share keys so share the loads, and short chunks still fill a tile.
"""

from __future__ import annotations

import triton
import triton.language as tl

from loramux_kernels.jit import device_function, kernel
from loramux_kernels.overlap import let_next_begin, wait_for_kernel_ahead
from loramux_kernels.triton_attention.softmax import (
    LOG2_E,
    PRECISION,
    exponentials,
    load_tokens,
    logits,
    pages_of,
    slots_of,
)


@kernel(unspecialized=("block_table", "work", "table_stride"))
def attend_queries(  # noqa: PLR0915, PLR0917
    out: tl.tensor,
    query: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    block_table: tl.tensor,
    work: tl.tensor,
    sinks: tl.tensor | None,
    table_stride: tl.tensor,
    query_row_stride: tl.tensor,
    query_head_stride: tl.tensor,
    factor: tl.tensor,
    tanh_factor: tl.tensor,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    KEY_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    WINDOW: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
    OVERLAP: tl.constexpr,
) -> None:
    """Attention of one tile of queries.

    The product with the values is one tile behind the product with the keys, so that the tensor
    cores work on it while the exponentials of the next tile are computed (as FlashAttention-3
    does, arXiv:2407.08608).

    Shapes:
        out: ``[num_rows, NUM_HEADS, VALUE_DIM]``; sinks: ``[NUM_HEADS]``.
        work: ``[items, 4]``: sequence or -1, first row, position of that row, number of queries.
    """
    wait_for_kernel_ahead(OVERLAP)
    let_next_begin(OVERLAP)
    GROUP: tl.constexpr = NUM_HEADS // NUM_KV_HEADS
    kv_head = tl.program_id(0)
    # The last tiles of a sequence have the most keys and begin first.
    item = tl.num_programs(1) - 1 - tl.program_id(1)
    sequence = tl.load(work + item * 4)
    if sequence < 0:
        return
    first_row = tl.load(work + item * 4 + 1)
    first = tl.load(work + item * 4 + 2)
    count = tl.load(work + item * 4 + 3)
    member = tl.arange(0, ROWS)
    row = first_row + member // GROUP
    head = kv_head * GROUP + member % GROUP
    position = first + member // GROUP
    mine = member < count * GROUP
    q = _load_queries(query, row, head, mine, query_row_stride, query_head_stride, KEY_DIM)
    q = q.to(keys.dtype.element_ty)
    table = block_table + sequence.to(tl.int64) * table_stride
    keys += kv_head * KEY_DIM
    values += kv_head * VALUE_DIM

    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    if sinks is not None:
        top = tl.load(sinks + head).to(tl.float32) * LOG2_E
        total += 1
    acc = tl.zeros([ROWS, triton.next_power_of_2(VALUE_DIM)], tl.float32)
    weights = tl.zeros([ROWS, TILE], tl.float32)
    decay = tl.full([ROWS], 1.0, tl.float32)
    QUERIES: tl.constexpr = ROWS // GROUP
    # Tiles with keys that are hidden from some query come first (0) and last (2). A short window
    # has no others.
    FIRST_PHASE: tl.constexpr = (0 if WINDOW >= QUERIES + 8 * TILE else 2) if WINDOW else 1
    end = first + count
    begin = tl.maximum(first + 1 - WINDOW, 0) // TILE * TILE if WINDOW else 0
    inner = tl.cdiv(tl.maximum(end - WINDOW, 0), TILE) * TILE if WINDOW else 0
    outer = begin if FIRST_PHASE == 2 else (first + 1) // TILE * TILE
    ALIGNED: tl.constexpr = TILE % BLOCK_SIZE == 0
    offset = tl.arange(0, TILE)
    for PHASE in tl.static_range(FIRST_PHASE, 3):
        start = begin if PHASE == 0 else (inner if PHASE == 1 else outer)
        stop = inner if PHASE == 0 else (outer if PHASE == 1 else end)
        page = pages_of(table, start, offset, end, BLOCK_SIZE, ALIGNED, True)
        late = tl.maximum(start - TILE, begin)
        late_page = pages_of(table, late, offset, end, BLOCK_SIZE, ALIGNED, True)
        late_slot = slots_of(late_page, late, offset, BLOCK_SIZE, ALIGNED)
        for tile in range(start, stop, TILE):
            slot = slots_of(page, tile, offset, BLOCK_SIZE, ALIGNED)
            # Blocks of the next tile are looked up now: its loads need not wait for them.
            following = tile + TILE if PHASE != 1 else tl.minimum(tile + TILE, stop - TILE)
            page = pages_of(table, following, offset, end, BLOCK_SIZE, ALIGNED, PHASE != 1)
            exists = offset < end - tile
            k = load_tokens(keys, slot, exists, NUM_KV_HEADS * KEY_DIM, KEY_DIM, PHASE != 1)
            # In the first tile weights are zero: any keys that exist do.
            exists = offset < end - tl.maximum(tile - TILE, begin)
            v = load_tokens(
                values, late_slot, exists, NUM_KV_HEADS * VALUE_DIM, VALUE_DIM, PHASE != 1
            )
            late_slot = slot
            raw = logits(q, k, tanh_factor, HAS_SOFTCAP)
            acc = tl.dot(weights.to(v.dtype), v, acc * decay[:, None], input_precision=PRECISION)
            if PHASE != 1:
                raw = _mask(raw, position - tile, offset, WINDOW)
            weights, decay, top = exponentials(raw, top, factor, PHASE != 1)
            total = total * decay + tl.sum(weights, 1)
    late = begin + (end - begin - 1) // TILE * TILE
    late_page = pages_of(table, late, offset, end, BLOCK_SIZE, ALIGNED, True)
    late_slot = slots_of(late_page, late, offset, BLOCK_SIZE, ALIGNED)
    exists = offset < end - late
    v = load_tokens(values, late_slot, exists, NUM_KV_HEADS * VALUE_DIM, VALUE_DIM, True)
    acc = tl.dot(weights.to(v.dtype), v, acc * decay[:, None], input_precision=PRECISION)

    column = tl.arange(0, triton.next_power_of_2(VALUE_DIM))
    target = out + (row.to(tl.int64) * NUM_HEADS + head)[:, None] * VALUE_DIM + column[None, :]
    result = (acc / total[:, None]).to(out.dtype.element_ty)
    tl.store(target, result, mask=mine[:, None] & (column < VALUE_DIM)[None, :])


@device_function
def _load_queries(
    query: tl.tensor,
    row: tl.tensor,
    head: tl.tensor,
    exists: tl.tensor,
    row_stride: tl.tensor,
    head_stride: tl.tensor,
    DIM: tl.constexpr,
) -> tl.tensor:
    column = tl.arange(0, triton.next_power_of_2(DIM))
    address = query + (row.to(tl.int64) * row_stride + head * head_stride)[:, None]
    mask = exists[:, None] & (column < DIM)[None, :]
    return tl.load(address + column[None, :], mask=mask, other=0.0)


@device_function
def _mask(
    raw: tl.tensor, position: tl.tensor, key_position: tl.tensor, WINDOW: tl.constexpr
) -> tl.tensor:
    """Hide what a query may not see; both positions count from the same place."""
    visible = key_position[None, :] <= position[:, None]
    if WINDOW:
        visible &= key_position[None, :] > position[:, None] - WINDOW
    return tl.where(visible, raw, float("-inf"))
