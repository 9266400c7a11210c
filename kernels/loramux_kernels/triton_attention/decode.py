"""Attention of single new tokens: chunks of sequences in parallel, then their combination.

This is split-KV decoding ("Flash-Decoding", Dao et al. 2023). Each program attends all query
heads of one KV head to one chunk of one sequence; a second kernel joins the chunks of a sequence,
always in the same order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from loramux_kernels.jit import kernel
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
def attend_chunks(  # noqa: PLR0917
    partial: tl.tensor,
    partial_log: tl.tensor,
    query: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    block_table: tl.tensor,
    work: tl.tensor,
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
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """Attention over one chunk, and the binary logarithm of its sum of exponentials.

    Shapes:
        partial: ``[items, NUM_HEADS, VALUE_DIM]``; partial_log: ``[items, NUM_HEADS]``.
        work: ``[items, 4]``: sequence or -1, row of its query, first position, end.
    """
    GROUP: tl.constexpr = NUM_HEADS // NUM_KV_HEADS
    kv_head = tl.program_id(0)
    item = tl.program_id(1)
    sequence = tl.load(work + item * 4)
    if sequence < 0:
        return
    begin = tl.load(work + item * 4 + 2)
    end = tl.load(work + item * 4 + 3)
    table = block_table + sequence.to(tl.int64) * table_stride
    keys += kv_head * KEY_DIM
    values += kv_head * VALUE_DIM
    member = tl.arange(0, ROWS)
    head = kv_head * GROUP + member
    column = tl.arange(0, triton.next_power_of_2(KEY_DIM))
    query += tl.load(work + item * 4 + 1).to(tl.int64) * query_row_stride
    q = tl.load(
        query + head[:, None] * query_head_stride + column[None, :],
        mask=(member < GROUP)[:, None] & (column < KEY_DIM)[None, :],
        other=0.0,
    ).to(keys.dtype.element_ty)

    offset = tl.arange(0, TILE)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    # Sums stay spread over the tile until the end: one reduction across warps less in the loop.
    sums = tl.zeros([ROWS, TILE], tl.float32)
    acc = tl.zeros([ROWS, triton.next_power_of_2(VALUE_DIM)], tl.float32)
    page = pages_of(table, begin, offset, end, BLOCK_SIZE, False, True)
    for start in range(begin, end, TILE):
        slot = slots_of(page, start, offset, BLOCK_SIZE, False)
        # Blocks of the next tile are looked up now, so that its loads need not wait for them.
        page = pages_of(table, start + TILE, offset, end, BLOCK_SIZE, False, True)
        exists = offset < end - start
        k = load_tokens(keys, slot, exists, NUM_KV_HEADS * KEY_DIM, KEY_DIM, True)
        raw = logits(q, k, tanh_factor, HAS_SOFTCAP)
        raw = tl.where(exists[None, :], raw, float("-inf"))
        weights, decay, top = exponentials(raw, top, factor, False)
        sums = sums * decay[:, None] + weights
        v = load_tokens(values, slot, exists, NUM_KV_HEADS * VALUE_DIM, VALUE_DIM, True)
        acc = tl.dot(weights.to(v.dtype), v, acc * decay[:, None], input_precision=PRECISION)

    total = tl.sum(sums, 1)
    column = tl.arange(0, triton.next_power_of_2(VALUE_DIM))
    target = (item * NUM_HEADS + head).to(tl.int64)
    tl.store(
        partial + target[:, None] * VALUE_DIM + column[None, :],
        acc / total[:, None],
        mask=(member < GROUP)[:, None] & (column < VALUE_DIM)[None, :],
    )
    tl.store(partial_log + target, top + tl.log2(total), mask=member < GROUP)


@kernel(unspecialized=("query_start_loc", "first_item"))
def combine_chunks(  # noqa: PLR0917
    out: tl.tensor,
    partial: tl.tensor,
    partial_log: tl.tensor,
    query_start_loc: tl.tensor,
    first_item: tl.tensor,
    sinks: tl.tensor | None,
    NUM_HEADS: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    CHUNKS: tl.constexpr,
) -> None:
    """Join the chunks of one sequence and head; sequences without tokens get zeros.

    Shapes:
        out: ``[num_rows, NUM_HEADS, VALUE_DIM]``.
        first_item: ``[num_sequences + 1]``, where each sequence's chunks begin in ``partial``.
    """
    sequence = tl.program_id(0)
    head = tl.program_id(1)
    row = tl.load(query_start_loc + sequence)
    if tl.load(query_start_loc + sequence + 1) - row != 1:
        return
    begin = tl.load(first_item + sequence)
    end = tl.load(first_item + sequence + 1)
    column = tl.arange(0, triton.next_power_of_2(VALUE_DIM))
    acc = tl.zeros([triton.next_power_of_2(VALUE_DIM)], tl.float32)
    if sinks is None:
        top = tl.full([], float("-inf"), tl.float32)
        total = tl.full([], 0.0, tl.float32)
    else:
        top = tl.load(sinks + head).to(tl.float32) * LOG2_E
        total = tl.full([], 1.0, tl.float32)
    for start in range(begin, end, CHUNKS):
        item = start + tl.arange(0, CHUNKS)
        source = (item * NUM_HEADS + head).to(tl.int64)
        log = tl.load(partial_log + source, mask=item < end, other=float("-inf"))
        mask = (item < end)[:, None] & (column < VALUE_DIM)[None, :]
        parts = tl.load(partial + source[:, None] * VALUE_DIM + column[None, :], mask, other=0.0)
        new_top = tl.maximum(top, tl.max(log, 0))
        weights = tl.exp2(log - new_top)
        decay = tl.exp2(top - new_top)
        top = new_top
        total = total * decay + tl.sum(weights, 0)
        acc = acc * decay + tl.sum(parts * weights[:, None], 0)
    acc /= tl.where(end > begin, total, 1.0)
    target = out + (row.to(tl.int64) * NUM_HEADS + head) * VALUE_DIM + column
    tl.store(target, acc.to(out.dtype.element_ty), mask=column < VALUE_DIM)
