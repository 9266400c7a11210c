"""Steps as large as any will be, or larger than any of some size; their results mean nothing."""

from __future__ import annotations

from loramux.engine.args import EngineArgs
from loramux.engine.scheduling.scheduler import MAX_SCORED_POSITIONS, Chunk
from loramux.engine.scheduling.sequence import Sequence
from loramux.sampling_params import SamplingParams

COSTLY = SamplingParams(top_p=0.9, repetition_penalty=1.1, logprobs=20, prompt_logprobs=20)
"""What takes memory beside the logits: copies of them to be changed, sorted, and reported."""


def largest_step(args: EngineArgs, max_model_len: int) -> list[Chunk]:
    """One long prompt and as many single tokens as sequences may run, all over block 0.

    As many positions of the prompt are scored as in any step.
    """
    num_short = args.max_num_seqs - 1
    longest = min(max_model_len, args.max_num_batched_tokens - num_short)
    lengths = [longest] + [1] * num_short
    return [_imaginary_chunk(length, args.block_size) for length in lengths]


def step_beyond(num_rows: int, args: EngineArgs, max_model_len: int) -> list[Chunk]:
    """Prompts of one row more, if the engine's steps may be as large; else nothing."""
    if num_rows >= args.max_num_batched_tokens:
        return []
    longest = min(max_model_len, num_rows + 1)
    lengths = [longest] * (num_rows // longest) + [num_rows % longest + 1]
    return [_imaginary_chunk(length, args.block_size) for length in lengths]


def _imaginary_chunk(num_tokens: int, block_size: int) -> Chunk:
    sequence = Sequence(
        sequence_id="largest step",
        prompt_token_ids=[0] * num_tokens,
        params=COSTLY,
        max_tokens=1,
        num_prompt_logprobs=max(0, num_tokens - 1 - MAX_SCORED_POSITIONS),
        block_ids=[0] * -(-num_tokens // block_size),
    )
    return Chunk.of(sequence, num_tokens)
