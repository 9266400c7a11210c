"""A step of an engine that makes embeddings, whose results are still on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loramux.engine.running.launched_step import ChunkResult
from loramux.engine.sampling.transfer import HostCopy
from loramux.engine.scheduling.scheduler import Chunk


@dataclass(frozen=True)
class PooledStep:
    """Chunks that are being computed, and the embeddings of those that end their prompt."""

    chunks: Sequence[Chunk]
    embeddings: HostCopy
    """One tensor, ``[prompts, hidden_size]`` float32."""

    def wait(self) -> list[ChunkResult]:
        """One result for each chunk, in their order."""
        (embeddings,) = self.embeddings.wait()
        rows = iter(embeddings.numpy())
        return [
            ChunkResult(chunk, embedding=next(rows) if chunk.samples else None)
            for chunk in self.chunks
        ]
