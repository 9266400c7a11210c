"""Queries and keys normalized and rotated, keys and values stored: one launch for all heads.

A program takes one row and a group of its heads: the queries' groups first, then the keys', then
the values'.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from loramux_kernels.blocks.layout import HeadLayout
from loramux_kernels.jit import device_function, kernel
from loramux_kernels.overlap import let_next_begin, overlapping, wait_for_kernel_ahead
from loramux_kernels.paged_attention import LayerCache
from loramux_kernels.triton_blocks.checks import require_contiguous, require_shape
from loramux_kernels.triton_blocks.normalization import inverse_root, normalized, squares

HEADS_PER_PROGRAM = 16


def rotate_and_store_(
    qkv: Tensor,
    positions: Tensor,
    cos: Tensor,
    sin: Tensor,
    layout: HeadLayout,
    cache: LayerCache,
    slots: Tensor,
) -> Tensor:
    """Rotate, store, return queries; see ``loramux_kernels.blocks.rotate_and_store_``.

    Raises:
        ValueError: a tensor has gaps or another shape.
    """
    check_rotation(qkv, positions, cos, sin, layout, cache, slots)
    rows, dim = qkv.shape[0], layout.head_dim
    queries = torch.empty((rows, layout.num_heads, dim), dtype=qkv.dtype, device=qkv.device)
    query_groups = triton.cdiv(layout.num_heads, HEADS_PER_PROGRAM)
    key_groups = triton.cdiv(layout.num_kv_heads, HEADS_PER_PROGRAM)
    _rotate_and_store[(rows * (query_groups + 2 * key_groups),)](
        queries,
        cache.keys,
        cache.values,
        qkv,
        positions,
        slots,
        cos,
        sin,
        **rotation_arguments(layout),
        num_warps=rotation_warps(layout),
        **overlapping(qkv.device),
    )
    return queries


def rotation_warps(layout: HeadLayout) -> int:
    """So many that a row of the table has fewer values than there are threads.

    Then each thread loads what it needs of the row, instead of all sharing it through shared
    memory.
    """
    return max(1, int(triton.next_power_of_2(layout.head_dim)) // 32)


def rotation_arguments(layout: HeadLayout) -> dict[str, Any]:
    """What kernels are told about a layer's heads."""
    q_norm, k_norm = layout.q_norm, layout.k_norm
    return {
        "q_weight": None if q_norm is None else q_norm.weight,
        "k_weight": None if k_norm is None else k_norm.weight,
        "q_eps": 0.0 if q_norm is None else q_norm.eps,
        "k_eps": 0.0 if k_norm is None else k_norm.eps,
        "NUM_HEADS": layout.num_heads,
        "NUM_KV_HEADS": layout.num_kv_heads,
        "DIM": layout.head_dim,
        "HALF": layout.rotary_dim // 2,
        "GROUP": HEADS_PER_PROGRAM,
        "Q_PLUS_ONE": q_norm is not None and q_norm.plus_one,
        "K_PLUS_ONE": k_norm is not None and k_norm.plus_one,
    }


def check_rotation(
    qkv: Tensor,
    positions: Tensor,
    cos: Tensor,
    sin: Tensor,
    layout: HeadLayout,
    cache: LayerCache,
    slots: Tensor,
) -> None:
    """Refuse tensors that a kernel would misread.

    Raises:
        ValueError: a tensor has gaps or another shape.
    """
    require_contiguous(
        qkv=qkv,
        positions=positions,
        cos=cos,
        sin=sin,
        keys=cache.keys,
        values=cache.values,
        slots=slots,
    )
    rows = qkv.shape[0]
    require_shape("qkv", qkv, (rows, layout.row_width))
    require_shape("positions", positions, (rows,))
    require_shape("slots", slots, (rows,))
    require_shape("cos", cos, (cos.shape[0], layout.rotary_dim))
    require_shape("sin", sin, cos.shape)
    head_shape = (layout.num_kv_heads, layout.head_dim)
    require_shape("keys", cache.keys, (*cache.keys.shape[:2], *head_shape))
    require_shape("values", cache.values, (*cache.keys.shape[:2], *head_shape))


# Slices of a step's metadata begin anywhere, and no compilation may come of that.
@kernel(unspecialized=("positions", "slots"))
def _rotate_and_store(  # noqa: PLR0917
    queries: tl.tensor,
    key_cache: tl.tensor,
    value_cache: tl.tensor,
    qkv: tl.tensor,
    positions: tl.tensor,
    slots: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    q_weight: tl.tensor,
    k_weight: tl.tensor,
    q_eps: tl.tensor,
    k_eps: tl.tensor,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    HALF: tl.constexpr,
    GROUP: tl.constexpr,
    Q_PLUS_ONE: tl.constexpr,
    K_PLUS_ONE: tl.constexpr,
    OVERLAP: tl.constexpr,
) -> None:
    QUERY_GROUPS: tl.constexpr = triton.cdiv(NUM_HEADS, GROUP)
    KEY_GROUPS: tl.constexpr = triton.cdiv(NUM_KV_HEADS, GROUP)
    PROGRAMS: tl.constexpr = QUERY_GROUPS + 2 * KEY_GROUPS
    row = (tl.program_id(0) // PROGRAMS).to(tl.int64)
    group = tl.program_id(0) % PROGRAMS
    wait_for_kernel_ahead(OVERLAP)
    let_next_begin(OVERLAP)
    rotate_group(
        queries, key_cache, value_cache, qkv, positions, slots, cos, sin,
        q_weight, k_weight, q_eps, k_eps, row, group,
        NUM_HEADS, NUM_KV_HEADS, DIM, HALF, GROUP, Q_PLUS_ONE, K_PLUS_ONE,
    )  # fmt: skip


@device_function
def rotate_group(  # noqa: PLR0917
    queries: tl.tensor,
    key_cache: tl.tensor,
    value_cache: tl.tensor,
    qkv: tl.tensor,
    positions: tl.tensor,
    slots: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    q_weight: tl.tensor,
    k_weight: tl.tensor,
    q_eps: tl.tensor,
    k_eps: tl.tensor,
    row: tl.tensor,
    group: tl.tensor,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    HALF: tl.constexpr,
    GROUP: tl.constexpr,
    Q_PLUS_ONE: tl.constexpr,
    K_PLUS_ONE: tl.constexpr,
) -> None:
    """``GROUP`` heads of one row, whose number is an int64."""
    QUERY_GROUPS: tl.constexpr = triton.cdiv(NUM_HEADS, GROUP)
    KEY_GROUPS: tl.constexpr = triton.cdiv(NUM_KV_HEADS, GROUP)
    source = qkv + row * ((NUM_HEADS + 2 * NUM_KV_HEADS) * DIM)
    table = tl.load(positions + row).to(tl.int64) * (2 * HALF)
    slot = tl.load(slots + row).to(tl.int64)
    token = slot * (NUM_KV_HEADS * DIM)
    if group < QUERY_GROUPS:
        _rotate_heads(
            queries + row * (NUM_HEADS * DIM), source, group, NUM_HEADS,
            cos + table, sin + table, q_weight, q_eps, DIM, HALF, GROUP, Q_PLUS_ONE,
        )  # fmt: skip
    elif slot >= 0:
        if group < QUERY_GROUPS + KEY_GROUPS:
            _rotate_heads(
                key_cache + token, source + NUM_HEADS * DIM, group - QUERY_GROUPS, NUM_KV_HEADS,
                cos + table, sin + table, k_weight, k_eps, DIM, HALF, GROUP, K_PLUS_ONE,
            )  # fmt: skip
        else:
            first = source + (NUM_HEADS + NUM_KV_HEADS) * DIM
            head = (group - QUERY_GROUPS - KEY_GROUPS) * GROUP + tl.arange(0, GROUP)
            values = _load_part(first, head, NUM_KV_HEADS, 0, DIM, DIM)
            _store_part(value_cache + token, values, head, NUM_KV_HEADS, 0, DIM, DIM)


@device_function
def _rotate_heads(  # noqa: PLR0917
    target: tl.tensor,
    source: tl.tensor,
    group: tl.tensor,
    COUNT: tl.constexpr,
    cos: tl.tensor,
    sin: tl.tensor,
    weight: tl.tensor,
    eps: tl.tensor,
    DIM: tl.constexpr,
    HALF: tl.constexpr,
    GROUP: tl.constexpr,
    PLUS_ONE: tl.constexpr,
) -> None:
    """One group of ``COUNT`` adjacent heads: first half, second half, and what is not rotated."""
    REST: tl.constexpr = DIM - 2 * HALF
    head = group * GROUP + tl.arange(0, GROUP)
    low = _load_part(source, head, COUNT, 0, HALF, DIM)
    high = _load_part(source, head, COUNT, HALF, HALF, DIM)
    # All is loaded before anything is stored: no load moves ahead of a store by itself.
    low_cos, low_sin = _load_row(cos, 0, HALF), _load_row(sin, 0, HALF)
    high_cos, high_sin = _load_row(cos, HALF, HALF), _load_row(sin, HALF, HALF)
    if REST > 0:
        rest = _load_part(source, head, COUNT, 2 * HALF, REST, DIM)
    if weight is not None:
        low_gain, high_gain = _load_row(weight, 0, HALF), _load_row(weight, HALF, HALF)
        total = tl.sum(squares(low), 1) + tl.sum(squares(high), 1)
        if REST > 0:
            total += tl.sum(squares(rest), 1)
        inverse = inverse_root(total, eps, DIM)[:, None]
        low = normalized(low, low_gain, inverse, PLUS_ONE)
        high = normalized(high, high_gain, inverse, PLUS_ONE)
        if REST > 0:
            rest = normalized(rest, _load_row(weight, 2 * HALF, REST), inverse, PLUS_ONE)
    _store_part(target, low * low_cos - high * low_sin, head, COUNT, 0, HALF, DIM)
    _store_part(target, high * high_cos + low * high_sin, head, COUNT, HALF, HALF, DIM)
    if REST > 0:
        _store_part(target, rest, head, COUNT, 2 * HALF, REST, DIM)


@device_function
def _load_part(
    source: tl.tensor,
    head: tl.tensor,
    COUNT: tl.constexpr,
    FIRST: tl.constexpr,
    LENGTH: tl.constexpr,
    DIM: tl.constexpr,
) -> tl.tensor:
    """``LENGTH`` values of each head from the ``FIRST``, padded with zeros."""
    column = tl.arange(0, triton.next_power_of_2(LENGTH))
    mask = (head < COUNT)[:, None] & (column < LENGTH)[None, :]
    return tl.load(source + head[:, None] * DIM + (FIRST + column)[None, :], mask=mask, other=0.0)


@device_function
def _store_part(
    target: tl.tensor,
    part: tl.tensor,
    head: tl.tensor,
    COUNT: tl.constexpr,
    FIRST: tl.constexpr,
    LENGTH: tl.constexpr,
    DIM: tl.constexpr,
) -> None:
    column = tl.arange(0, triton.next_power_of_2(LENGTH))
    mask = (head < COUNT)[:, None] & (column < LENGTH)[None, :]
    address = target + head[:, None] * DIM + (FIRST + column)[None, :]
    tl.store(address, part.to(target.dtype.element_ty), mask=mask)


@device_function
def _load_row(source: tl.tensor, FIRST: tl.constexpr, LENGTH: tl.constexpr) -> tl.tensor:
    """``[1, LENGTH]``, padded with zeros."""
    column = tl.arange(0, triton.next_power_of_2(LENGTH))
    return tl.load(source + FIRST + column, mask=column < LENGTH, other=0.0)[None, :]
