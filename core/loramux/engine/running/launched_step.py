"""A step whose results are still on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from loramux.engine.messages import Embedding, PositionLogprobs
from loramux.engine.sampling.sampler import INVALID_TOKEN_ID, HostTokens
from loramux.engine.scheduling.scheduler import Chunk


@dataclass
class ChunkResult:
    """What computing one chunk brought.

    ``token_id`` is None where the chunk did not reach the last token, and ``INVALID_TOKEN_ID``
    where its logits were unusable (NaN). An engine that makes embeddings gives ``embedding``,
    ``[hidden_size]`` float32, in its place.
    """

    chunk: Chunk
    token_id: int | None = None
    logprobs: PositionLogprobs | None = None
    prompt_logprobs: list[PositionLogprobs] | None = None
    embedding: Embedding | None = None

    @property
    def is_invalid(self) -> bool:
        if self.embedding is not None:
            return not np.isfinite(self.embedding).all()
        return self.token_id == INVALID_TOKEN_ID


@dataclass(frozen=True)
class LaunchedStep:
    """Chunks that are being computed, and how to get at what comes of them."""

    chunks: Sequence[Chunk]
    wait_for_tokens: Callable[[], HostTokens]
    """Tokens of the chunks that sample, in their order; waits for the device."""
    prompt_logprobs: Mapping[Chunk, list[PositionLogprobs]]
    """Of the chunks whose requests asked, which did not mind the wait."""

    def wait(self) -> list[ChunkResult]:
        """One result for each chunk, in their order."""
        tokens = self.wait_for_tokens()
        results = [ChunkResult(c, prompt_logprobs=self.prompt_logprobs.get(c)) for c in self.chunks]
        sampling = [result for result in results if result.chunk.samples]
        for result, token_id, logprobs in zip(
            sampling, tokens.token_ids, tokens.logprobs, strict=True
        ):
            result.token_id = token_id
            result.logprobs = logprobs
        return results
