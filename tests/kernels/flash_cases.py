"""Batches for attention libraries, and the steps that the engine would make of them."""

from __future__ import annotations

import torch

from loramux.engine.running.step_layout import StepLayout, lay_out
from loramux.engine.scheduling.scheduler import Chunk
from loramux.engine.scheduling.sequence import Sequence
from loramux.sampling_params import SamplingParams
from tests.kernels.attention_cases import Batch, Case, make_batch

GARBAGE = 1000.0


def stored_batch(
    case: Case, dtype: torch.dtype = torch.float16, device: str = "cpu", stale: float = GARBAGE
) -> Batch:
    """Strangers' blocks are NaN, what a sequence's own blocks have beyond it is ``stale``.

    That this is a number the engine sees to for backends that read stale keys.
    """
    batch = make_batch(case, dtype, device)
    own = [block for blocks in batch.blocks for block in blocks]
    for cache in (batch.cache.keys, batch.cache.values):
        cache[own] = cache[own].nan_to_num(nan=stale)
    slots = batch.metadata.slots
    known = slots >= 0
    batch.cache.write(slots[known], batch.new_keys[known], batch.new_values[known])
    return batch


def layout_of(case: Case, blocks: list[list[int]]) -> StepLayout:
    """The step as the engine lays it out; every sequence has new tokens."""
    chunks = []
    for number, (length, new) in enumerate(case.shapes):
        params = SamplingParams()
        sequence = Sequence(str(number), [7] * length, params, 1, block_ids=blocks[number])
        sequence.num_computed_tokens = length - new
        chunks.append(Chunk.of(sequence, new))
    return lay_out(chunks, case.block_size)
