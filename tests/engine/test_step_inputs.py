"""From chunks to flat tensors: every token at its place, and little padding among decodes."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from loramux.engine.running.step_inputs import build_inputs
from loramux.engine.scheduling.scheduler import Chunk
from loramux.engine.scheduling.sequence import Sequence
from loramux.sampling_params import SamplingParams

BLOCK = 4
CPU = torch.device("cpu")

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
    inputs = build_inputs(chunks, BLOCK, CPU)
    expected = []
    for chunk in chunks:
        sequence = chunk.sequence
        for position in range(sequence.num_computed_tokens, sequence.num_tokens):
            slot = sequence.block_ids[position // BLOCK] * BLOCK + position % BLOCK
            expected.append((sequence.tokens(position, position + 1)[0], position, slot))
    columns = (inputs.input_ids[0], inputs.positions[0], inputs.attention.slots)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == expected
    assert inputs.num_rows == len(expected)


@given(st.lists(shapes, min_size=1, max_size=8))
def test_every_row_is_attended_to_once_over_its_own_blocks(shapes):
    chunks = make_chunks(shapes)
    inputs = build_inputs(chunks, BLOCK, CPU)
    rows = []
    for chunk in inputs.attention.prefills:
        sequence = chunks[chunk_at(inputs.rows, chunk.start)].sequence
        assert chunk.length == sequence.num_tokens
        assert chunk.block_table.tolist() == sequence.block_ids
        rows += range(chunk.start, chunk.stop)
    for group in inputs.attention.decodes:
        for row, table, length in zip(group.rows, group.block_table, group.lengths, strict=True):
            sequence = chunks[chunk_at(inputs.rows, int(row))].sequence
            assert int(length) == sequence.num_tokens
            own = table[: len(sequence.block_ids)].tolist()
            assert own == sequence.block_ids
            assert set(table.tolist()) == set(own), "never padded with a stranger's block"
            rows.append(int(row))
    assert sorted(rows) == list(range(inputs.num_rows))


def chunk_at(all_rows: list, row: int) -> int:
    return next(n for n, rows in enumerate(all_rows) if rows.start <= row < rows.stop)


@given(st.lists(st.integers(1, 500), min_size=1, max_size=30))
def test_no_decode_is_padded_to_more_than_double(lengths):
    inputs = build_inputs(make_chunks([(length, 0, 1) for length in lengths]), BLOCK, CPU)
    for group in inputs.attention.decodes:
        shortest, longest = int(group.lengths.min()), int(group.lengths.max())
        assert longest <= 2 * max(shortest, 4 * BLOCK)
