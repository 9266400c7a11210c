"""The front of an engine that makes embeddings: what the core sends, as callers get it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from loramux.engine.front.output_processor import ProcessedOutputs
from loramux.engine.front.request_state import FrontRequest
from loramux.engine.messages import CoreOutput, Embedding
from loramux.outputs import CompletionOutput, PooledOutput
from loramux.pooling_params import PoolingParams

if TYPE_CHECKING:
    from loramux.engine.pooling.plan import PoolingPlan

SMALLEST_NORM = 1e-12
"""Shorter embeddings are divided by this, as torch's ``normalize`` does."""


class PoolingOutputs:
    """Follows every request of an engine; each has one sequence and one output, its last."""

    def __init__(self, plan: PoolingPlan) -> None:
        self._plan = plan
        self._requests: dict[str, FrontRequest[PoolingParams]] = {}
        """By the name of their sequence."""
        self._sequences: dict[str, str] = {}
        """The name of each request's sequence."""

    def add_request(self, request: FrontRequest[PoolingParams]) -> None:
        """Follow a request from now on, whose id and parameters have been checked."""
        (sequence_id,) = request.sequence_ids
        self._requests[sequence_id] = request
        self._sequences[request.request_id] = sequence_id

    def process(self, core_outputs: Sequence[CoreOutput]) -> ProcessedOutputs:
        """Take in what a step brought; outputs of sequences nobody waits for are passed over."""
        ended = [output for output in core_outputs if output.finish_reason is not None]
        followed = [output for output in ended if output.sequence_id in self._requests]
        return ProcessedOutputs([self._output(output) for output in followed], [])

    def abort(self, request_id: str) -> ProcessedOutputs:
        """End a request; a name that is not running brings nothing."""
        sequence_id = self._sequences.get(request_id)
        if sequence_id is None:
            return ProcessedOutputs([], [])
        return self.process([CoreOutput(sequence_id, [], finish_reason="abort")])

    def _output(self, core: CoreOutput) -> PooledOutput:
        request = self._requests.pop(core.sequence_id)
        del self._sequences[request.request_id]
        raw, lora = core.embedding, request.lora_request
        return PooledOutput(
            request_id=request.request_id,
            prompt=request.prompt,
            prompt_token_ids=request.prompt_token_ids,
            outputs=[
                CompletionOutput(0, "", [], finish_reason=core.finish_reason, lora_request=lora)
            ],
            finished=True,
            lora_request=lora,
            adapter_digest=core.adapter_digest,
            num_cached_tokens=core.num_cached_tokens,
            error=core.error,
            first_scheduled_time=core.first_scheduled_time,
            embedding=None if raw is None else self._finished(raw, request.params),
        )

    def _finished(self, raw: Embedding, params: PoolingParams) -> Embedding:
        """Shortened first and normalized then, so that a short one has the length 1, too."""
        embedding = raw[: params.dimensions]
        normalize = self._plan.normalize if params.normalize is None else params.normalize
        if not normalize:
            return embedding
        return embedding / max(np.linalg.norm(embedding), np.float32(SMALLEST_NORM))
