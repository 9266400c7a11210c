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
        chunk = chunk_rows.chunk
        scored, offset = chunk.scored, chunk_rows.start - chunk.first
        if not scored:
            return None
        next_token_ids = chunk.sequence.prompt_token_ids[scored.start + 1 : scored.stop + 1]
        return cls(chunk, [position + offset for position in scored], next_token_ids)

    def logprobs(self, logits: Tensor) -> list[PositionLogprobs]:
        """One entry for each position, from its ``logits`` ``[positions, vocab]``."""
        next_ids = torch.tensor(self.next_token_ids, device=logits.device)
        count = self.chunk.sequence.params.prompt_logprobs
        assert count is not None
        return prompt_logprobs(logits, next_ids, count)
