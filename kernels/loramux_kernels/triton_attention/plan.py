"""Work lists: which part of which sequence each program attends to.

They are computed on the device from lengths on the device, so that a CUDA graph that was captured
once serves any lengths, and every multiprocessor gets its share even if lengths differ widely.
An item of work is some integers; items that are not needed have -1 as their sequence.
"""

from __future__ import annotations

import triton.language as tl

from loramux_kernels.jit import device_function, kernel
from loramux_kernels.overlap import let_next_begin, wait_for_kernel_ahead

CHUNK_FIELDS = tl.constexpr(6)
TILE_FIELDS = tl.constexpr(4)


@kernel(
    unspecialized=(
        "work",
        "first_item",
        "query_start_loc",
        "lengths",
        "num_sequences",
        "num_items",
        "goal",
        "window",
    )
)
def plan_chunks(  # noqa: PLR0917
    work: tl.tensor,
    first_item: tl.tensor,
    query_start_loc: tl.tensor,
    lengths: tl.tensor,
    num_sequences: tl.tensor,
    num_items: tl.tensor,
    goal: tl.tensor,
    window: tl.tensor,
    SEQUENCES: tl.constexpr,
    TILE: tl.constexpr,
    MIN_TILES: tl.constexpr,
    OVERLAP: tl.constexpr,
) -> None:
    """Cut what sequences with one new token attend to into up to ``goal`` chunks.

    A sequence is cut only where two chunks of a size come out of it, which is a share of the batch
    such that ``goal`` of them are all there is. So sequences of like lengths, half as many as the
    goal or more, stay whole: nothing has to be joined then.

    Shapes:
        work: ``[num_items, 6]``: sequence or -1, row of its query, first position, end, number of
            the chunk in its sequence, how many it has.
        first_item: ``[num_sequences + 1]``, where each sequence's items begin.
    """
    wait_for_kernel_ahead(OVERLAP)
    let_next_begin(OVERLAP)
    mine = tl.program_id(0)
    every = tl.arange(0, SEQUENCES)
    exists = every < num_sequences
    row = tl.load(query_start_loc + every, mask=exists, other=0)
    next_row = tl.load(query_start_loc + every + 1, mask=exists, other=0)
    length = tl.load(lengths + every, mask=exists, other=0)
    visible = tl.where(next_row - row == 1, tl.minimum(length, window), 0)
    tiles = tl.cdiv(visible, TILE)
    tiles_per_chunk = tl.maximum(tl.cdiv(tl.sum(tiles), goal), MIN_TILES)
    chunks = tl.where(tiles > 0, tl.maximum(tiles // tiles_per_chunk, 1), 0)

    first, count = _share(chunks, every, mine)
    _, my_tiles = _share(tiles, every, mine)
    my_length = tl.load(lengths + mine)
    begin = my_length - tl.minimum(my_length, window)
    for start in range(0, count, 16):
        chunk = start + tl.arange(0, 16)
        item = work + (first + chunk) * CHUNK_FIELDS
        end = begin + (chunk + 1) * my_tiles // count * TILE
        tl.store(item, mine, mask=chunk < count)
        tl.store(item + 1, tl.load(query_start_loc + mine), mask=chunk < count)
        tl.store(item + 2, begin + chunk * my_tiles // count * TILE, mask=chunk < count)
        tl.store(item + 3, tl.minimum(end, my_length), mask=chunk < count)
        tl.store(item + 4, chunk, mask=chunk < count)
        tl.store(item + 5, count, mask=chunk < count)
    tl.store(first_item + mine, first)
    if mine == num_sequences - 1:
        tl.store(first_item + num_sequences, first + count)
        _clear(work, first + count, num_items, CHUNK_FIELDS)


@kernel(unspecialized=("work", "query_start_loc", "lengths", "num_sequences", "num_items"))
def plan_tiles(  # noqa: PLR0917
    work: tl.tensor,
    query_start_loc: tl.tensor,
    lengths: tl.tensor,
    num_sequences: tl.tensor,
    num_items: tl.tensor,
    SEQUENCES: tl.constexpr,
    QUERIES: tl.constexpr,
    OVERLAP: tl.constexpr,
) -> None:
    """Cut the queries of sequences with several new tokens into tiles of ``QUERIES``.

    Shapes:
        work: ``[num_items, 4]``: sequence or -1, first row, position of that row, number of rows.
    """
    wait_for_kernel_ahead(OVERLAP)
    let_next_begin(OVERLAP)
    mine = tl.program_id(0)
    every = tl.arange(0, SEQUENCES)
    exists = every < num_sequences
    row = tl.load(query_start_loc + every, mask=exists, other=0)
    rows = tl.load(query_start_loc + every + 1, mask=exists, other=0) - row
    tiles = tl.where(rows > 1, tl.cdiv(rows, QUERIES), 0)

    first, count = _share(tiles, every, mine)
    _, my_rows = _share(rows, every, mine)
    my_row = tl.load(query_start_loc + mine)
    past = tl.load(lengths + mine) - my_rows
    for start in range(0, count, 16):
        tile = start + tl.arange(0, 16)
        item = work + (first + tile) * TILE_FIELDS
        done = tile * QUERIES
        tl.store(item, mine, mask=tile < count)
        tl.store(item + 1, my_row + done, mask=tile < count)
        tl.store(item + 2, past + done, mask=tile < count)
        tl.store(item + 3, tl.minimum(my_rows - done, QUERIES), mask=tile < count)
    if mine == num_sequences - 1:
        _clear(work, first + count, num_items, TILE_FIELDS)


@device_function
def _share(counts: tl.tensor, every: tl.tensor, mine: tl.tensor) -> tl.tensor:
    """How much comes before ``mine``, and how much is its own."""
    return tl.sum(tl.where(every < mine, counts, 0)), tl.sum(tl.where(every == mine, counts, 0))


@device_function
def _clear(work: tl.tensor, begin: tl.tensor, end: tl.tensor, FIELDS: tl.constexpr) -> None:
    for start in range(begin, end, 128):
        item = start + tl.arange(0, 128)
        tl.store(work + item * FIELDS, -1, mask=item < end)
