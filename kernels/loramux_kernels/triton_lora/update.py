"""``scaling * (x A) B`` from the parts that shrink has left, for whichever kernel adds it.

The rank vector is summed and scaled in float32 and enters the product with about 16 bits even where
B has 8.
"""

from __future__ import annotations

import triton.language as tl

from loramux_kernels.jit import device_function

# fmt: off


@device_function
def lora_update(  # noqa: PLR0917
    hidden: tl.tensor, has_row: tl.tensor, b: tl.tensor, has_column: tl.tensor, width: tl.tensor,
    rank: tl.tensor, scaling: tl.tensor, num_splits: tl.tensor, split_stride: tl.tensor,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, RANK: tl.constexpr, SPLITS: tl.constexpr,
    STAGES: tl.constexpr,
) -> tl.tensor:
    """``[ROWS, COLUMNS]`` of the update, float32."""
    update = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in tl.range(0, rank, RANK, num_stages=STAGES):
        vector = rank_vector(
            hidden, has_row, first, rank, scaling, num_splits, split_stride, RANK, SPLITS
        )
        update = add_product(update, vector, rows_of_b(b, has_column, first, rank, width, RANK))
    return update


@device_function
def with_update(  # noqa: PLR0917
    values: tl.tensor, vector: tl.tensor, first_part: tl.tensor,
    hidden: tl.tensor, has_row: tl.tensor, b: tl.tensor, has_column: tl.tensor, width: tl.tensor,
    rank: tl.tensor, scaling: tl.tensor, num_splits: tl.tensor, split_stride: tl.tensor,
    RANK: tl.constexpr, SPLITS: tl.constexpr, WHOLE: tl.constexpr,
) -> tl.tensor:
    """Values plus their update, rounded once; the values themselves where the rank is 0.

    ``vector`` is the first part of the rank vector, which many columns share, and ``first_part``
    what it is multiplied with: the first ``rows_of_b``. ``WHOLE`` says that this is all of it.
    """
    if rank > 0:
        update = tl.zeros(values.shape, tl.float32)
        update = add_product(update, vector, first_part)
        if not WHOLE:
            for first in tl.range(RANK, rank, RANK, num_stages=1):
                part = rank_vector(
                    hidden, has_row, first, rank, scaling, num_splits, split_stride, RANK, SPLITS
                )
                rows = rows_of_b(b, has_column, first, rank, width, RANK)
                update = add_product(update, part, rows)
        values = (values.to(tl.float32) + update).to(values.dtype)
    return values


@device_function
def rank_vector(  # noqa: PLR0917
    hidden: tl.tensor, has_row: tl.tensor, first: tl.tensor, rank: tl.tensor, scaling: tl.tensor,
    num_splits: tl.tensor, split_stride: tl.tensor, RANK: tl.constexpr, SPLITS: tl.constexpr,
) -> tl.tensor:
    """``RANK`` components from the ``first``, scaled: ``[rows, RANK]``, float32."""
    sums = rank_sums(
        hidden, has_row & (rank > 0), first, num_splits, split_stride, RANK, SPLITS
    )
    return scaled(sums, first, rank, scaling)


@device_function
def rank_sums(
    hidden: tl.tensor, has_row: tl.tensor, first: tl.tensor,
    num_splits: tl.tensor, split_stride: tl.tensor, RANK: tl.constexpr, SPLITS: tl.constexpr,
) -> tl.tensor:
    """``[rows, RANK]`` components from the ``first``, float32; anything beyond the rank."""
    component = first + tl.arange(0, RANK)
    at = hidden[:, None] + component[None, :]
    # What lies beyond the rank has never been written. It is loaded nevertheless: a mask that
    # changes along a row would make of each vector single loads.
    sums = tl.load(at, mask=has_row[:, None], other=0.0)
    for split in tl.static_range(1, SPLITS):
        mask = has_row[:, None] & (split < num_splits)
        sums += tl.load(at + split * split_stride, mask=mask, other=0.0)
    return sums


@device_function
def scaled(
    sums: tl.tensor, first: tl.tensor, rank: tl.tensor, scaling: tl.tensor
) -> tl.tensor:
    """What ``rank_sums`` has loaded, scaled, and zeros beyond the rank."""
    component = first + tl.arange(0, sums.shape[1])
    return tl.where((component < rank)[None, :], sums * scaling, 0.0)


@device_function
def updated(
    values: tl.tensor, sums: tl.tensor, rank: tl.tensor, scaling: tl.tensor, b: tl.tensor
) -> tl.tensor:
    """Values plus the update of all components at once, rounded once.

    ``sums`` are those of ``rank_sums`` for a rank that they hold, ``b`` the ``rows_of_b``.
    """
    update = tl.zeros(values.shape, tl.float32)
    update = add_product(update, scaled(sums, 0, rank, scaling), b)
    return (values.to(tl.float32) + update).to(values.dtype)


@device_function
def rows_of_b(
    b: tl.tensor, has_column: tl.tensor, first: tl.tensor, rank: tl.tensor, width: tl.tensor,
    RANK: tl.constexpr,
) -> tl.tensor:
    """``RANK`` rows of B from the ``first``, at the columns that ``b`` points to in row 0."""
    component = first + tl.arange(0, RANK)
    mask = (component < rank)[:, None] & has_column[None, :]
    return tl.load(b[None, :] + component[:, None] * width, mask=mask, other=0.0)


@device_function
def add_product(total: tl.tensor, vector: tl.tensor, b: tl.tensor) -> tl.tensor:
    """Add ``vector @ b``, with the vector in two parts where B's dtype has too few bits for it."""
    if b.dtype == tl.float32:
        return tl.dot(vector, b, total, input_precision="ieee")
    high = vector.to(b.dtype)
    rest = vector - high.to(tl.float32)
    # An infinite component leaves NaN or infinity: it has no second part.
    low = tl.where(tl.abs(rest) < float("inf"), rest, 0.0).to(b.dtype)
    return tl.dot(low, b, tl.dot(high, b, total))
# fmt: on
