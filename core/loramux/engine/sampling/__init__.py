"""How the core chooses tokens: rows and batches in, token ids and log probabilities out."""

from __future__ import annotations

from loramux.engine.sampling.batch import SamplingBatch
from loramux.engine.sampling.logprobs import LogprobTensors, prompt_logprobs
from loramux.engine.sampling.row import SamplingRow, seeded_generator
from loramux.engine.sampling.sampler import (
    INVALID_TOKEN_ID,
    HostTokens,
    SampledTokens,
    Sampler,
)

__all__ = [
    "INVALID_TOKEN_ID",
    "HostTokens",
    "LogprobTensors",
    "SampledTokens",
    "Sampler",
    "SamplingBatch",
    "SamplingRow",
    "prompt_logprobs",
    "seeded_generator",
]
