"""Prompt tokens whose log probabilities a step has to give."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from loramux.engine.messages import PositionLogprobs
from loramux.engine.running.step_layout import ChunkRows
from loramux.engine.sampling.logprobs import prompt_logprobs
from loramux.engine.scheduling.scheduler import Chunk


@dataclass(frozen=True, eq=False)
class PromptPositions:
    """Rows of one chunk, each of which predicts the prompt token that follows it."""

    chunk: Chunk
    rows: list[int]
    next_token_ids: list[int]

    @classmethod
    def of(cls, chunk_rows: ChunkRows) -> PromptPositions | None:
        """The chunk's prompt positions, None if its request did not ask or they are done."""
        sequence = chunk_rows.chunk.sequence
        if sequence.params.prompt_logprobs is None:
            return None
        first = max(chunk_rows.chunk.first, sequence.num_prompt_logprobs)
        last = min(chunk_rows.length, len(sequence.prompt_token_ids) - 1)
        if first >= last:
            return None
        offset = chunk_rows.start - chunk_rows.chunk.first
        rows = list(range(first + offset, last + offset))
        return cls(chunk_rows.chunk, rows, sequence.prompt_token_ids[first + 1 : last + 1])

    def logprobs(self, logits: Tensor) -> list[PositionLogprobs]:
        """One entry for each position, from its ``logits`` ``[positions, vocab]``."""
        next_ids = torch.tensor(self.next_token_ids, device=logits.device)
        count = self.chunk.sequence.params.prompt_logprobs
        assert count is not None
        return prompt_logprobs(logits, next_ids, count).to_host()
