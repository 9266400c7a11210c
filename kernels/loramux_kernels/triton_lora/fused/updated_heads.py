"""Adjacent heads of some rows, with their update: rotated, or stored as they are."""

from __future__ import annotations

import triton
import triton.language as tl

from loramux_kernels.jit import device_function
from loramux_kernels.overlap import wait_for_kernel_ahead
from loramux_kernels.triton_blocks.normalization import inverse_root, normalized, squares
from loramux_kernels.triton_lora.update import rank_vector, rows_of_b, with_update

# fmt: off


@device_function
def rotate_heads_updated(  # noqa: PLR0917
    target: tl.tensor, has_target: tl.tensor, source: tl.tensor, index: tl.tensor,
    exists: tl.tensor, first_head: tl.tensor, COUNT: tl.constexpr,
    positions: tl.tensor, cos: tl.tensor, sin: tl.tensor, weight: tl.tensor, eps: tl.tensor,
    hidden: tl.tensor, b: tl.tensor, rank: tl.tensor, scaling: tl.tensor,
    num_splits: tl.tensor, split_stride: tl.tensor,
    B_WIDTH: tl.constexpr, DIM: tl.constexpr, HALF: tl.constexpr, HEADS: tl.constexpr,
    PLUS_ONE: tl.constexpr, RANK: tl.constexpr, SPLITS: tl.constexpr, WHOLE: tl.constexpr,
    OVERLAP: tl.constexpr,
) -> None:
    """``HEADS`` of ``COUNT`` adjacent heads of each row, one after the other."""
    REST: tl.constexpr = DIM - 2 * HALF
    stop = tl.minimum(first_head + HEADS, COUNT)
    table = tl.load(positions + index, mask=exists, other=0).to(tl.int64) * (2 * HALF)
    # Matrices are complete before a step begins: they are on their way while shrink still runs.
    low_b = _part_of_b(b, exists, first_head * DIM, HALF, B_WIDTH, rank, RANK)
    high_b = _part_of_b(b, exists, first_head * DIM + HALF, HALF, B_WIDTH, rank, RANK)
    if REST > 0:
        rest_b = _part_of_b(b, exists, first_head * DIM + 2 * HALF, REST, B_WIDTH, rank, RANK)
    wait_for_kernel_ahead(OVERLAP)
    vector = rank_vector(hidden, exists, 0, rank, scaling, num_splits, split_stride, RANK, SPLITS)
    low_cos, low_sin = _rows(cos + table, exists, 0, HALF), _rows(sin + table, exists, 0, HALF)
    high_cos = _rows(cos + table, exists, HALF, HALF)
    high_sin = _rows(sin + table, exists, HALF, HALF)
    low = _values(source, exists, first_head * DIM, HALF)
    high = _values(source, exists, first_head * DIM + HALF, HALF)
    if REST > 0:
        rest = _values(source, exists, first_head * DIM + 2 * HALF, REST)
    for head in tl.range(first_head, stop, num_stages=1):
        # Asked for now, needed for the next head.
        after, exist = (head + 1) * DIM, exists & (head + 1 < stop)
        next_low, next_low_b = _part(source, exist, b, after, HALF, B_WIDTH, rank, RANK)
        next_high, next_high_b = _part(source, exist, b, after + HALF, HALF, B_WIDTH, rank, RANK)
        low = _updated(
            low, low_b, exists, head * DIM, HALF, vector, hidden, b, B_WIDTH,
            rank, scaling, num_splits, split_stride, RANK, SPLITS, WHOLE,
        )
        high = _updated(
            high, high_b, exists, head * DIM + HALF, HALF, vector, hidden, b, B_WIDTH,
            rank, scaling, num_splits, split_stride, RANK, SPLITS, WHOLE,
        )
        if REST > 0:
            next_rest, next_rest_b = _part(
                source, exist, b, after + 2 * HALF, REST, B_WIDTH, rank, RANK
            )
            rest = _updated(
                rest, rest_b, exists, head * DIM + 2 * HALF, REST, vector, hidden, b, B_WIDTH,
                rank, scaling, num_splits, split_stride, RANK, SPLITS, WHOLE,
            )
        if weight is not None:
            total = tl.sum(squares(low), 1) + tl.sum(squares(high), 1)
            if REST > 0:
                total += tl.sum(squares(rest), 1)
            inverse = inverse_root(total, eps, DIM)[:, None]
            low = normalized(low, _row(weight, 0, HALF), inverse, PLUS_ONE)
            high = normalized(high, _row(weight, HALF, HALF), inverse, PLUS_ONE)
            if REST > 0:
                rest = normalized(rest, _row(weight, 2 * HALF, REST), inverse, PLUS_ONE)
        _store(target, has_target, head * DIM, HALF, low * low_cos - high * low_sin)
        _store(target, has_target, head * DIM + HALF, HALF, high * high_cos + low * high_sin)
        low, low_b, high, high_b = next_low, next_low_b, next_high, next_high_b
        if REST > 0:
            _store(target, has_target, head * DIM + 2 * HALF, REST, rest)
            rest, rest_b = next_rest, next_rest_b


@device_function
def store_values_updated(  # noqa: PLR0917
    target: tl.tensor, has_target: tl.tensor, source: tl.tensor, exists: tl.tensor,
    first_head: tl.tensor, COUNT: tl.constexpr, hidden: tl.tensor, b: tl.tensor,
    rank: tl.tensor, scaling: tl.tensor, num_splits: tl.tensor, split_stride: tl.tensor,
    B_WIDTH: tl.constexpr, DIM: tl.constexpr, HEADS: tl.constexpr,
    RANK: tl.constexpr, SPLITS: tl.constexpr, WHOLE: tl.constexpr, OVERLAP: tl.constexpr,
) -> None:
    """``HEADS`` of ``COUNT`` adjacent heads of each row, as they are."""
    stop = tl.minimum(first_head + HEADS, COUNT)
    part = _part_of_b(b, exists, first_head * DIM, DIM, B_WIDTH, rank, RANK)
    wait_for_kernel_ahead(OVERLAP)
    vector = rank_vector(hidden, exists, 0, rank, scaling, num_splits, split_stride, RANK, SPLITS)
    values = _values(source, exists, first_head * DIM, DIM)
    for head in tl.range(first_head, stop, num_stages=1):
        exist = exists & (head + 1 < stop)
        after, next_part = _part(source, exist, b, (head + 1) * DIM, DIM, B_WIDTH, rank, RANK)
        values = _updated(
            values, part, exists, head * DIM, DIM, vector, hidden, b, B_WIDTH,
            rank, scaling, num_splits, split_stride, RANK, SPLITS, WHOLE,
        )
        _store(target, has_target, head * DIM, DIM, values)
        values, part = after, next_part


@device_function
def _part(  # noqa: PLR0917
    source: tl.tensor, exists: tl.tensor, b: tl.tensor, first: tl.tensor, LENGTH: tl.constexpr,
    B_WIDTH: tl.constexpr, rank: tl.tensor, RANK: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """``LENGTH`` values of each row from the ``first``, and B for them, padded with zeros."""
    values = _values(source, exists, first, LENGTH)
    return values, _part_of_b(b, exists, first, LENGTH, B_WIDTH, rank, RANK)


@device_function
def _values(
    source: tl.tensor, exists: tl.tensor, first: tl.tensor, LENGTH: tl.constexpr
) -> tl.tensor:
    column = tl.arange(0, triton.next_power_of_2(LENGTH))
    mask = exists[:, None] & (column < LENGTH)[None, :]
    return tl.load(source[:, None] + (first + column)[None, :], mask=mask, other=0.0)


@device_function
def _part_of_b(
    b: tl.tensor, exists: tl.tensor, first: tl.tensor, LENGTH: tl.constexpr,
    B_WIDTH: tl.constexpr, rank: tl.tensor, RANK: tl.constexpr,
) -> tl.tensor:
    column = tl.arange(0, triton.next_power_of_2(LENGTH))
    has_b = (column < LENGTH) & (tl.max(exists.to(tl.int32), 0) > 0)
    return rows_of_b(b + first + column, has_b, 0, rank, B_WIDTH, RANK)


@device_function
def _updated(  # noqa: PLR0917
    values: tl.tensor, part: tl.tensor, exists: tl.tensor, first: tl.tensor, LENGTH: tl.constexpr,
    vector: tl.tensor, hidden: tl.tensor, b: tl.tensor, B_WIDTH: tl.constexpr,
    rank: tl.tensor, scaling: tl.tensor, num_splits: tl.tensor, split_stride: tl.tensor,
    RANK: tl.constexpr, SPLITS: tl.constexpr, WHOLE: tl.constexpr,
) -> tl.tensor:
    """What ``_part`` has loaded, with its update."""
    column = tl.arange(0, triton.next_power_of_2(LENGTH))
    return with_update(
        values, vector, part, hidden, exists, b + first + column, column < LENGTH, B_WIDTH,
        rank, scaling, num_splits, split_stride, RANK, SPLITS, WHOLE,
    )


@device_function
def _store(
    target: tl.tensor, exists: tl.tensor, first: tl.tensor, LENGTH: tl.constexpr, part: tl.tensor
) -> None:
    column = tl.arange(0, triton.next_power_of_2(LENGTH))
    mask = exists[:, None] & (column < LENGTH)[None, :]
    address = target[:, None] + (first + column)[None, :]
    tl.store(address, part.to(target.dtype.element_ty), mask=mask)


@device_function
def _rows(
    source: tl.tensor, exists: tl.tensor, FIRST: tl.constexpr, LENGTH: tl.constexpr
) -> tl.tensor:
    """``LENGTH`` values of each row, padded with zeros."""
    column = tl.arange(0, triton.next_power_of_2(LENGTH))
    mask = exists[:, None] & (column < LENGTH)[None, :]
    return tl.load(source[:, None] + (FIRST + column)[None, :], mask=mask, other=0.0)


@device_function
def _row(source: tl.tensor, FIRST: tl.constexpr, LENGTH: tl.constexpr) -> tl.tensor:
    """``[1, LENGTH]``, padded with zeros."""
    column = tl.arange(0, triton.next_power_of_2(LENGTH))
    return tl.load(source + FIRST + column, mask=column < LENGTH, other=0.0)[None, :]
# fmt: on
