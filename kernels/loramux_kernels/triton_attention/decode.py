"""Attention of single new tokens: chunks of sequences in parallel, then their combination.

This is split-KV decoding ("Flash-Decoding", Dao et al. 2023). Each program attends all query
heads of one KV head to one chunk of one sequence; a second kernel joins the chunks of a sequence,
always in the same order. What a sequence with a single chunk gets is the result already.
"""

from __future__ import annotations

import triton
import triton.language as tl

from loramux_kernels.jit import kernel
from loramux_kernels.overlap import let_next_begin, wait_for_kernel_ahead
from loramux_kernels.triton_attention.plan import CHUNK_FIELDS
from loramux_kernels.triton_attention.softmax import (
    LOG2_E,
    PRECISION,
    exponentials,
    load_tokens,
    logits,
    pages_of,
    slots_of,
)


@kernel(unspecialized=("block_table", "work", "plan_is_new", "table_stride"))
def attend_chunks(  # noqa: PLR0915, PLR0917
    out: tl.tensor,
    partial: tl.tensor,
    partial_log: tl.tensor,
    query: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    block_table: tl.tensor,
    work: tl.tensor,
    sinks: tl.tensor | None,
    plan_is_new: tl.tensor,
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
    OVERLAP: tl.constexpr,
) -> None:
    """Attention over one chunk, and the binary logarithm of its sum of exponentials.

    The sink counts as a key of the first chunk.

    Shapes:
        out: ``[num_rows, NUM_HEADS, VALUE_DIM]``, for sequences with a single chunk; for others
            partial: ``[items, NUM_HEADS, VALUE_DIM]``; partial_log: ``[items, NUM_HEADS]``.
        work: ``[items, 6]``, as ``plan_chunks`` writes it; sinks: ``[NUM_HEADS]``.
    """
    GROUP: tl.constexpr = NUM_HEADS // NUM_KV_HEADS
    kv_head = tl.program_id(0)
    item = tl.program_id(1)
    work += item * CHUNK_FIELDS
    # Who uses a plan first waits for it before the next kernel begins, and so for all that follow.
    if plan_is_new:
        wait_for_kernel_ahead(OVERLAP)
    sequence = tl.load(work)
    if sequence < 0:
        wait_for_kernel_ahead(OVERLAP)
        return
    row = tl.load(work + 1).to(tl.int64)
    begin = tl.load(work + 2)
    end = tl.load(work + 3)
    chunk = tl.load(work + 4)
    num_chunks = tl.load(work + 5)
    table = block_table + sequence.to(tl.int64) * table_stride
    keys += kv_head * KEY_DIM
    values += kv_head * VALUE_DIM
    member = tl.arange(0, ROWS)
    head = kv_head * GROUP + member
    offset = tl.arange(0, TILE)
    page = pages_of(table, begin, offset, end, BLOCK_SIZE, False, True)
    wait_for_kernel_ahead(OVERLAP)
    let_next_begin(OVERLAP)
    column = tl.arange(0, triton.next_power_of_2(KEY_DIM))
    q = tl.load(
        query + row * query_row_stride + head[:, None] * query_head_stride + column[None, :],
        mask=(member < GROUP)[:, None] & (column < KEY_DIM)[None, :],
        other=0.0,
    ).to(keys.dtype.element_ty)

    top = tl.full([ROWS], float("-inf"), tl.float32)
    # Sums stay spread over the tile until the end: one reduction across warps less in the loop.
    sums = tl.zeros([ROWS, TILE], tl.float32)
    if sinks is not None:
        sink = tl.load(sinks + head, mask=member < GROUP, other=0.0).to(tl.float32) * LOG2_E
        top = tl.where(chunk == 0, sink, top)
        sums = tl.where((chunk == 0) & (offset == 0)[None, :], 1.0, sums)
    acc = tl.zeros([ROWS, triton.next_power_of_2(VALUE_DIM)], tl.float32)
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
    result = acc / total[:, None]
    column = tl.arange(0, triton.next_power_of_2(VALUE_DIM))
    mask = (member < GROUP)[:, None] & (column < VALUE_DIM)[None, :]
    if num_chunks == 1:
        target = (row * NUM_HEADS + head)[:, None] * VALUE_DIM + column[None, :]
        tl.store(out + target, result.to(out.dtype.element_ty), mask=mask)
    else:
        source = (item * NUM_HEADS + head).to(tl.int64)
        tl.store(partial + source[:, None] * VALUE_DIM + column[None, :], result, mask=mask)
        tl.store(partial_log + source, top + tl.log2(total), mask=member < GROUP)


@kernel(unspecialized=("query_start_loc", "first_item"))
def combine_chunks(  # noqa: PLR0917
    out: tl.tensor,
    partial: tl.tensor,
    partial_log: tl.tensor,
    query_start_loc: tl.tensor,
    first_item: tl.tensor,
    NUM_HEADS: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    HEADS: tl.constexpr,
    CHUNKS: tl.constexpr,
    OVERLAP: tl.constexpr,
) -> None:
    """Join the chunks of one sequence and ``HEADS`` heads; those without tokens get zeros.

    Shapes:
        out: ``[num_rows, NUM_HEADS, VALUE_DIM]``.
        first_item: ``[num_sequences + 1]``, where each sequence's chunks begin in ``partial``.
    """
    sequence = tl.program_id(0)
    # The kernel ahead has waited for the plan before it let this one begin.
    row = tl.load(query_start_loc + sequence)
    next_row = tl.load(query_start_loc + sequence + 1)
    begin = tl.load(first_item + sequence)
    end = tl.load(first_item + sequence + 1)
    wait_for_kernel_ahead(OVERLAP)
    let_next_begin(OVERLAP)
    if (next_row - row != 1) | (end - begin == 1):
        return
    # Programs with heads to spare compute the last one again.
    head = tl.minimum(tl.program_id(1) * HEADS + tl.arange(0, HEADS), NUM_HEADS - 1)
    column = tl.arange(0, triton.next_power_of_2(VALUE_DIM))
    acc = tl.zeros([HEADS, triton.next_power_of_2(VALUE_DIM)], tl.float32)
    top = tl.full([HEADS], float("-inf"), tl.float32)
    total = tl.zeros([HEADS], tl.float32)
    for start in range(begin, end, CHUNKS):
        item = start + tl.arange(0, CHUNKS)
        exists = (item < end)[:, None]
        source = item.to(tl.int64)[:, None] * NUM_HEADS + head[None, :]
        log = tl.load(partial_log + source, mask=exists, other=float("-inf"))
        mask = exists[:, :, None] & (column < VALUE_DIM)[None, None, :]
        address = partial + source[:, :, None] * VALUE_DIM + column[None, None, :]
        parts = tl.load(address, mask=mask, other=0.0)
        new_top = tl.maximum(top, tl.max(log, 0))
        weights = tl.exp2(log - new_top[None, :])
        decay = tl.exp2(top - new_top)
        top = new_top
        total = total * decay + tl.sum(weights, 0)
        acc = acc * decay[:, None] + tl.sum(parts * weights[:, :, None], 0)
    acc /= tl.where(end > begin, total, 1.0)[:, None]
    target = (row.to(tl.int64) * NUM_HEADS + head)[:, None] * VALUE_DIM + column[None, :]
    tl.store(out + target, acc.to(out.dtype.element_ty), mask=(column < VALUE_DIM)[None, :])
