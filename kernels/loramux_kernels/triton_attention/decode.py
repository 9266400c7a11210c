"""Attention of single new tokens: chunks of sequences in parallel, joined by who ends last.

This is split-KV decoding ("Flash-Decoding", Dao et al. 2023) with equal shares for programs that
all run at once (as "Stream-K" has them, Osama et al. 2023). Each program attends all query heads of
one KV head to its chunks. What a sequence with a single chunk gets is the result already; the
chunks of others are joined by the program that ends last, always in the same order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from loramux_kernels.jit import device_function, kernel
from loramux_kernels.overlap import let_next_begin, wait_for_kernel_ahead
from loramux_kernels.triton_attention.join import join_if_last
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


@kernel(unspecialized=("block_table", "work", "padding", "arrivals", "plan_is_new", "table_stride"))
def attend_chunks(  # noqa: PLR0915, PLR0917
    out: tl.tensor,
    partial: tl.tensor,
    partial_log: tl.tensor,
    query: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    block_table: tl.tensor,
    work: tl.tensor,
    padding: tl.tensor,
    arrivals: tl.tensor,
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
    MANY: tl.constexpr,
    OVERLAP: tl.constexpr,
) -> None:
    """Attention over one program's chunks; the sink counts as a key of the first of a sequence.

    Shapes:
        out: ``[num_rows, NUM_HEADS, VALUE_DIM]``; sinks: ``[NUM_HEADS]``.
        partial: ``[items, NUM_HEADS, VALUE_DIM]``; partial_log: ``[items, NUM_HEADS]``, binary
            logarithms of sums of exponentials. Of sequences that are cut.
        work, padding, arrivals: as ``plan_chunks`` writes them.
    """
    GROUP: tl.constexpr = NUM_HEADS // NUM_KV_HEADS
    kv_head = tl.program_id(0)
    # Who uses a plan first waits for it before the next kernel begins, and so for all that follow.
    if plan_is_new:
        wait_for_kernel_ahead(OVERLAP)
    sequence, row, begin, end, chunk, count, place, following = _item(work, tl.program_id(1))
    spare = tl.program_id(1)
    idle = tl.load(padding + spare)
    keys += kv_head * KEY_DIM
    values += kv_head * VALUE_DIM
    offset = tl.arange(0, TILE)
    table = block_table + sequence.to(tl.int64) * table_stride
    page = pages_of(table, begin, offset, end, BLOCK_SIZE, False, True)
    wait_for_kernel_ahead(OVERLAP)
    let_next_begin(OVERLAP)

    member = tl.arange(0, ROWS)
    head = kv_head * GROUP + member
    column = tl.arange(0, triton.next_power_of_2(KEY_DIM))
    value_column = tl.arange(0, triton.next_power_of_2(VALUE_DIM))
    mask = (member < GROUP)[:, None] & (value_column < VALUE_DIM)[None, :]
    while idle >= 0:
        target = (idle.to(tl.int64) * NUM_HEADS + head)[:, None] * VALUE_DIM + value_column[None, :]
        tl.store(out + target, tl.zeros(target.shape, out.dtype.element_ty), mask=mask)
        spare += tl.num_programs(1)
        idle = tl.load(padding + spare)

    while sequence >= 0:
        (
            next_sequence,
            next_row,
            next_begin,
            next_end,
            next_chunk,
            next_count,
            next_place,
            after_next,
        ) = _item(work, following)
        q = tl.load(
            query
            + row.to(tl.int64) * query_row_stride
            + head[:, None] * query_head_stride
            + column[None, :],
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

        # Blocks of the next item are looked up while this one's result is written.
        table = block_table + next_sequence.to(tl.int64) * table_stride
        page = pages_of(table, next_begin, offset, next_end, BLOCK_SIZE, False, True)
        total = tl.sum(sums, 1)
        result = acc / total[:, None]
        if count == 1:
            target = (row.to(tl.int64) * NUM_HEADS + head)[:, None] * VALUE_DIM
            tl.store(out + target + value_column[None, :], result.to(out.dtype.element_ty), mask)
        else:
            source = place.to(tl.int64) * NUM_HEADS + head
            tl.store(partial + source[:, None] * VALUE_DIM + value_column[None, :], result, mask)
            tl.store(partial_log + source, top + tl.log2(total), mask=member < GROUP)
            join_if_last(
                out,
                partial,
                partial_log,
                arrivals + sequence * NUM_KV_HEADS + kv_head,
                row,
                place - chunk,
                count,
                kv_head * GROUP,
                NUM_HEADS,
                GROUP,
                VALUE_DIM,
                MANY,
            )
        sequence, row, begin, end = next_sequence, next_row, next_begin, next_end
        chunk, count, place, following = next_chunk, next_count, next_place, after_next


@device_function
def _item(work: tl.tensor, index: tl.tensor) -> tl.tensor:
    """An item of work, or -1 everywhere."""
    item = work + index * CHUNK_FIELDS
    exists = index >= 0
    return (
        tl.load(item, mask=exists, other=-1),
        tl.load(item + 1, mask=exists, other=-1),
        tl.load(item + 2, mask=exists, other=-1),
        tl.load(item + 3, mask=exists, other=-1),
        tl.load(item + 4, mask=exists, other=-1),
        tl.load(item + 5, mask=exists, other=-1),
        tl.load(item + 6, mask=exists, other=-1),
        tl.load(item + 7, mask=exists, other=-1),
    )
