"""From chunks to flat tensors: every token at its place, and little padding among decodes."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import Mock

import torch
from hypothesis import given
from hypothesis import strategies as st

from loramux.engine.running.attention import torch_batch
from loramux.engine.running.forward.captured_step import CapturedStep
from loramux.engine.running.forward.padded_step import StepSize
from loramux.engine.running.step_layout import StepLayout, lay_out
from loramux.engine.scheduling.scheduler import Chunk
from loramux.engine.scheduling.sequence import Sequence
from loramux.sampling_params import SamplingParams
from loramux_kernels.paged_attention import AttentionBatch

BLOCK = 4

shapes = st.tuples(
    st.integers(1, 60), st.integers(0, 20), st.just(1) | st.just(1) | st.integers(1, 30)
)
"""Prompt tokens, generated tokens, and tokens to compute in this step."""


def make_chunks(shapes: list[tuple[int, int, int]]) -> list[Chunk]:
    chunks = []
    first_block = 0
    for number, (num_prompt, num_output, num_new) in enumerate(shapes):
        length = num_prompt + num_output
        ids = [1000 * number + position for position in range(length)]
        sequence = Sequence(str(number), ids[:num_prompt], SamplingParams(), 1)
        sequence.output_token_ids += ids[num_prompt:]
        sequence.num_computed_tokens = length - min(num_new, length)
        num_blocks = -(-length // BLOCK)
        sequence.block_ids = list(range(first_block, first_block + num_blocks))[::-1]
        first_block += num_blocks
        chunks.append(Chunk.of(sequence, min(num_new, length)))
    return chunks


@given(st.lists(shapes, min_size=1, max_size=8))
def test_every_token_stands_at_its_place(shapes):
    chunks = make_chunks(shapes)
    layout = lay_out(chunks, BLOCK)
    expected = []
    for chunk in chunks:
        sequence = chunk.sequence
        for position in range(sequence.num_computed_tokens, sequence.num_tokens):
            slot = sequence.block_ids[position // BLOCK] * BLOCK + position % BLOCK
            expected.append((sequence.tokens(position, position + 1)[0], position, slot))
    columns = (layout.token_ids, layout.positions, layout.slots)
    assert list(zip(*columns, strict=True)) == expected
    assert layout.num_rows == len(expected)
    assert layout.has_prefills == any(chunk.num_tokens > 1 for chunk in chunks)
    assert layout.logit_rows == [rows.stop - 1 for rows in layout.rows if rows.chunk.samples]


def test_a_token_in_flight_is_named_by_its_place():
    """Its id is on the device; everything else of it is known."""
    known = Sequence("known", [5, 6], SamplingParams(), 9, block_ids=[3])
    flying = Sequence("flying", [7, 8], SamplingParams(), 9, block_ids=[4])
    flying.num_computed_tokens, flying.num_in_flight, flying.sampled_row = 2, 1, 6
    layout = lay_out([Chunk.of(known, 2), Chunk.of(flying, 1)], BLOCK)
    assert layout.token_ids.tolist() == [5, 6, -1 - 6]
    assert layout.positions.tolist() == [0, 1, 2]
    assert layout.slots.tolist() == [12, 13, 18]


@given(st.lists(shapes, min_size=1, max_size=8))
def test_every_row_is_attended_to_once_over_its_own_blocks(shapes):
    chunks = make_chunks(shapes)
    layout, batch = lay_out_for_torch(chunks)
    rows = []
    for chunk in batch.prefills:
        sequence = chunks[chunk_at(layout.rows, chunk.start)].sequence
        assert chunk.length == sequence.num_tokens
        assert chunk.block_table.tolist() == sequence.block_ids
        rows += range(chunk.start, chunk.stop)
    for group in batch.decodes:
        for row, table, length in zip(group.rows, group.block_table, group.lengths, strict=True):
            sequence = chunks[chunk_at(layout.rows, int(row))].sequence
            assert int(length) == sequence.num_tokens
            own = table[: len(sequence.block_ids)].tolist()
            assert own == sequence.block_ids
            assert set(table.tolist()) == set(own), "never padded with a stranger's block"
            rows.append(int(row))
    assert sorted(rows) == list(range(layout.num_rows))


def lay_out_for_torch(chunks: list[Chunk]) -> tuple[StepLayout, AttentionBatch]:
    layout = lay_out(chunks, BLOCK)
    return layout, torch_batch(layout, torch.tensor(layout.slots))


def chunk_at(all_rows: list, row: int) -> int:
    return next(n for n, rows in enumerate(all_rows) if rows.start <= row < rows.stop)


@given(st.lists(st.integers(1, 500), min_size=1, max_size=30))
def test_no_decode_is_padded_to_more_than_double(lengths):
    _, batch = lay_out_for_torch(make_chunks([(length, 0, 1) for length in lengths]))
    for group in batch.decodes:
        shortest, longest = int(group.lengths.min()), int(group.lengths.max())
        assert longest <= 2 * max(shortest, 4 * BLOCK)


def test_a_captured_decode_gives_logits_in_the_order_they_are_asked_for():
    """A prompt that is scored token by token stands before a stream, and its scores behind."""
    prompt, stream = make_chunks([(4, 0, 2), (4, 0, 1)])
    layout = lay_out([replace(prompt, num_tokens=1, samples=False), stream], BLOCK)
    assert layout.logit_rows == [1]
    step = CapturedStep.__new__(CapturedStep)
    step.size, step._step = StepSize(4, 4, is_decode=True), Mock()
    step._graphs = {False: (Mock(), torch.arange(4.0)[:, None])}
    for rows in ([0, 1], [1, 0], [1]):
        assert step.replay(layout, rows, with_lora=False).flatten().tolist() == rows
