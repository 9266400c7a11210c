"""Steps as large as any will be, or larger than any of some size; their results mean nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from loramux.engine.args import EngineArgs
from loramux.engine.scheduling.scheduler import MAX_SCORED_POSITIONS, Chunk
from loramux.engine.scheduling.sequence import Sequence
from loramux.sampling_params import SamplingParams

COSTLY = SamplingParams(top_p=0.9, repetition_penalty=1.1, logprobs=20, prompt_logprobs=20)
"""What takes memory beside the logits: copies of them to be changed, sorted, and reported."""


def largest_step(args: EngineArgs, max_model_len: int) -> list[Chunk]:
    """As many tokens and sequences as one step may have, over block 0: long prompts come first.

    As many positions of the prompts are scored as in any step.
    """
    lengths = _lengths(_most_rows(args, max_model_len), args.max_num_seqs, max_model_len)
    return _imaginary_chunks(lengths, args.block_size)


def step_beyond(num_rows: int, args: EngineArgs, max_model_len: int) -> list[Chunk]:
    """Prompts of one row more, if the engine's steps may be as large; else nothing."""
    if num_rows >= _most_rows(args, max_model_len):
        return []
    num_sequences = -(-(num_rows + 1) // max_model_len)
    return _imaginary_chunks(_lengths(num_rows + 1, num_sequences, max_model_len), args.block_size)


def _most_rows(args: EngineArgs, max_model_len: int) -> int:
    return min(args.max_num_batched_tokens, args.max_num_seqs * max_model_len)


def _lengths(num_rows: int, num_sequences: int, longest: int) -> Iterator[int]:
    """Rows of each sequence, at least one: as many as may be for the first, and so on."""
    for num_others in reversed(range(num_sequences)):
        length = min(longest, num_rows - num_others)
        num_rows -= length
        yield length


def _imaginary_chunks(lengths: Iterable[int], block_size: int) -> list[Chunk]:
    chunks, num_scored = [], 0
    for length in lengths:
        score = min(length - 1, MAX_SCORED_POSITIONS - num_scored)
        num_scored += score
        chunks.append(_imaginary_chunk(length, score, block_size))
    return chunks


def _imaginary_chunk(num_tokens: int, num_scored: int, block_size: int) -> Chunk:
    sequence = Sequence(
        sequence_id="largest step",
        prompt_token_ids=[0] * num_tokens,
        params=COSTLY,
        max_tokens=1,
        num_prompt_logprobs=num_tokens - 1 - num_scored,
        block_ids=[0] * -(-num_tokens // block_size),
    )
    return Chunk.of(sequence, num_tokens)
