"""Work lists: which part of which sequence each program attends to.

They are computed on the device from lengths on the device, so that a CUDA graph that was captured
once serves any lengths, and every multiprocessor gets its share even if lengths differ widely.
An item of work is some integers; items that are not needed have -1 as their sequence.
"""

from __future__ import annotations

import triton
import triton.language as tl

from loramux_kernels.jit import device_function, kernel
from loramux_kernels.overlap import let_next_begin, wait_for_kernel_ahead

CHUNK_FIELDS = tl.constexpr(8)
TILE_FIELDS = tl.constexpr(4)
GRAIN = tl.constexpr(8)
"""Tokens: where sequences of unlike lengths may be cut."""
_NEVER = tl.constexpr(2**31 - 1)


@kernel(
    unspecialized=(
        "work",
        "padding",
        "arrivals",
        "query_start_loc",
        "lengths",
        "num_sequences",
        "num_programs",
        "window",
    )
)
def plan_chunks(  # noqa: PLR0917
    work: tl.tensor,
    padding: tl.tensor,
    arrivals: tl.tensor,
    query_start_loc: tl.tensor,
    lengths: tl.tensor,
    num_sequences: tl.tensor,
    num_programs: tl.tensor,
    window: tl.tensor,
    SEQUENCES: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    TILE: tl.constexpr,
    MIN_TOKENS: tl.constexpr,
    OVERLAP: tl.constexpr,
) -> None:
    """Share what sequences with one new token attend to among programs that all run at once.

    The sequences lie one after another on a line, and program ``p`` has the tokens from ``p *
    share`` on. It begins with item ``p``; the sequences that begin within its share follow, linked,
    sequence ``s`` as item ``num_programs + s``.

    Shapes:
        work: ``[num_programs + num_sequences, 8]``: sequence or -1, row of its query, first
            position, end, number of the chunk in its sequence, how many it has, where its partial
            result goes, next item or -1. Partial results of a sequence are neighbours.
        padding: ``[num_programs + num_sequences]``, rows of empty sequences, then -1.
        arrivals: ``[num_sequences, NUM_KV_HEADS]``, zeros from now on.
    """
    wait_for_kernel_ahead(OVERLAP)
    let_next_begin(OVERLAP)
    mine = tl.program_id(0)
    every = tl.arange(0, SEQUENCES)
    exists = every < num_sequences
    row = tl.load(query_start_loc + every, mask=exists, other=0)
    next_row = tl.load(query_start_loc + every + 1, mask=exists, other=0)
    length = tl.load(lengths + every, mask=exists, other=0)
    is_decode = next_row - row == 1
    visible = tl.where(is_decode, tl.minimum(length, window), 0)
    share, grain = _share_of_a_program(visible, num_programs, TILE, MIN_TOKENS)
    width = tl.cdiv(visible, grain) * grain
    is_empty = (is_decode & (visible == 0)).to(tl.int32)

    begin, my_width = _share(width, every, mine)
    _, my_visible = _share(visible, every, mine)
    my_row = tl.load(query_start_loc + mine)
    following = tl.min(tl.where((every > mine) & (visible > 0), every, num_sequences))
    first = begin // share
    count = tl.where(my_visible > 0, (begin + my_width - 1) // share - first + 1, 0)
    hidden = tl.load(lengths + mine) - my_visible
    for start in range(0, count, 16):
        chunk = start + tl.arange(0, 16)
        program = first + chunk
        opens = (chunk > 0) | (begin % share == 0)
        item = work + tl.where(opens, program, num_programs + mine) * CHUNK_FIELDS
        # Sequences of like lengths have chunks of like lengths, each a program of its own.
        alike = grain == share
        left = tl.where(alike, chunk * my_visible // count, program * share - begin)
        right = tl.where(alike, (chunk + 1) * my_visible // count, (program + 1) * share - begin)
        goes_on = (begin + my_width < (program + 1) * share) & (following < num_sequences)
        mask = chunk < count
        tl.store(item, mine, mask=mask)
        tl.store(item + 1, my_row, mask=mask)
        tl.store(item + 2, hidden + tl.maximum(left, 0), mask=mask)
        tl.store(item + 3, hidden + tl.minimum(right, my_visible), mask=mask)
        tl.store(item + 4, chunk, mask=mask)
        tl.store(item + 5, count, mask=mask)
        tl.store(item + 6, program + mine, mask=mask)
        tl.store(item + 7, tl.where(goes_on, num_programs + following, -1), mask=mask)
    before, is_mine = _share(is_empty, every, mine)
    tl.store(padding + before, my_row, mask=is_mine > 0)
    head = tl.arange(0, triton.next_power_of_2(NUM_KV_HEADS))
    tl.store(arrivals + mine * NUM_KV_HEADS + head, 0, mask=head < NUM_KV_HEADS)
    if mine == num_sequences - 1:
        used = tl.cdiv(tl.sum(width), share)
        _clear(work, used * CHUNK_FIELDS, num_programs * CHUNK_FIELDS, 1)
        _clear(padding, tl.sum(is_empty), num_programs + num_sequences, 1)


@device_function
def _share_of_a_program(
    visible: tl.tensor, num_programs: tl.tensor, TILE: tl.constexpr, MIN_TOKENS: tl.constexpr
) -> tl.tensor:
    """Tokens of a program, and what the sequences' places on the line are multiples of.

    Where sequences can be cut into chunks of nearly one size, no more of them than programs, each
    program has one chunk. Fewer programs than there could be are as fast as long as they end
    together: they share the memory's bandwidth. Elsewhere all have the same number of tokens.
    """
    total = tl.sum(visible)
    fair = tl.maximum(tl.cdiv(total, num_programs), MIN_TOKENS)
    size = fair + fair * tl.arange(0, 16) // 16
    chunks = tl.cdiv(visible[None, :], size[:, None])
    largest = tl.max(tl.cdiv(visible[None, :], tl.maximum(chunks, 1)), 1)
    count = tl.sum(chunks, 1)
    mean = total // tl.maximum(count, 1)
    fits = (count <= num_programs) & (largest <= tl.maximum(mean, fair) + TILE)
    alike = tl.min(tl.where(fits, size, _NEVER))
    share = tl.cdiv(tl.sum(tl.cdiv(visible, GRAIN)), num_programs) * GRAIN
    share = tl.where(alike < _NEVER, alike, tl.maximum(share, MIN_TOKENS))
    return share, tl.where(alike < _NEVER, alike, GRAIN)


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
