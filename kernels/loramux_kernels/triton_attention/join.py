"""Chunks of one sequence put together by the program that ends last.

A program stores what it has, then counts itself. Who finds that all others have come reads what
they stored, in the order of the chunks: the bits do not depend on who it is.
"""

from __future__ import annotations

import triton
import triton.language as tl

from loramux_kernels.jit import device_function

FEW = tl.constexpr(4)
"""Chunks that are joined in one round, where a sequence has no more."""


@device_function
def join_if_last(  # noqa: PLR0917
    out: tl.tensor,
    partial: tl.tensor,
    partial_log: tl.tensor,
    arrived: tl.tensor,
    row: tl.tensor,
    first: tl.tensor,
    count: tl.tensor,
    head: tl.tensor,
    NUM_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    MANY: tl.constexpr,
) -> None:
    """After the ``count`` partial results from ``first`` on, ``row`` of ``out`` is written.

    ``head`` is the first of the ``GROUP`` query heads; ``MANY`` is how many chunks registers hold.
    The counter ``arrived`` is then 0 again, for the next layer.
    """
    # What all threads have stored is released by the one that counts.
    tl.debug_barrier()
    if tl.atomic_add(arrived, 1, sem="acq_rel") == count - 1:
        tl.store(arrived, 0)
        source = first.to(tl.int64) * NUM_HEADS + head
        out += (row.to(tl.int64) * NUM_HEADS + head) * VALUE_DIM
        if FEW < MANY and count <= FEW:
            _join(out, partial, partial_log, source, count, NUM_HEADS, GROUP, VALUE_DIM, FEW)
        else:
            _join(out, partial, partial_log, source, count, NUM_HEADS, GROUP, VALUE_DIM, MANY)


@device_function
def _join(  # noqa: PLR0917
    out: tl.tensor,
    partial: tl.tensor,
    partial_log: tl.tensor,
    first: tl.tensor,
    count: tl.tensor,
    NUM_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    CHUNKS: tl.constexpr,
) -> None:
    """Join ``count`` chunks, ``CHUNKS`` at a time, for the query heads of one KV head.

    Other programs have written them, so that they are read from the L2 cache, which all share.
    ``first`` is the first of the heads in the first chunk; ``out`` points to it in the answer.
    """
    # Rows beyond the group compute its last head again.
    member = tl.minimum(tl.arange(0, triton.next_power_of_2(GROUP)), GROUP - 1)
    column = tl.arange(0, triton.next_power_of_2(VALUE_DIM))
    acc = tl.zeros([triton.next_power_of_2(GROUP), triton.next_power_of_2(VALUE_DIM)], tl.float32)
    top = tl.full([triton.next_power_of_2(GROUP)], float("-inf"), tl.float32)
    total = tl.zeros([triton.next_power_of_2(GROUP)], tl.float32)
    for start in range(0, count, CHUNKS):
        chunk = start + tl.arange(0, CHUNKS)
        exists = (chunk < count)[:, None]
        source = first + chunk[:, None] * NUM_HEADS + member[None, :]
        log = tl.load(partial_log + source, mask=exists, other=float("-inf"), cache_modifier=".cg")
        mask = exists[:, :, None] & (column < VALUE_DIM)[None, None, :]
        address = partial + source[:, :, None] * VALUE_DIM + column[None, None, :]
        parts = tl.load(address, mask=mask, other=0.0, cache_modifier=".cg")
        new_top = tl.maximum(top, tl.max(log, 0))
        weights = tl.exp2(log - new_top[None, :])
        decay = tl.exp2(top - new_top)
        top = new_top
        total = total * decay + tl.sum(weights, 0)
        acc = acc * decay[:, None] + tl.sum(parts * weights[:, :, None], 0)
    target = member[:, None] * VALUE_DIM + column[None, :]
    joined = (acc / total[:, None]).to(out.dtype.element_ty)
    tl.store(out + target, joined, mask=(column < VALUE_DIM)[None, :])
