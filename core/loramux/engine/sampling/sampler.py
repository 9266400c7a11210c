"""From logits to the next token of every row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from loramux.engine.messages import PositionLogprobs
from loramux.engine.sampling.batch import RandomRows, SamplingBatch
from loramux.engine.sampling.logprobs import (
    LogprobRequest,
    LogprobTensors,
    position_lists,
)
from loramux.engine.sampling.transfer import HostCopy
from loramux.engine.sampling.truncation import truncate_

INVALID_TOKEN_ID = -1
"""Stands for the token of a row whose logits hold NaN or no finite maximum."""

SMALLEST_NOISE = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, slots=True)
class HostTokens:
    """The tokens of one step as plain lists.

    ``logprobs`` has None for rows that did not ask or are invalid. ``invalid_rows`` are the rows
    whose logits were unusable: their ``token_ids`` are -1, and only their requests have failed.
    """

    token_ids: list[int]
    logprobs: list[PositionLogprobs | None]
    invalid_rows: list[int]


@dataclass(frozen=True, slots=True)
class SampledTokens:
    """The tokens of one step, still on the device.

    Args:
        token_ids: [rows] int64, -1 for rows whose logits were unusable.
        logprobs: of the rows that asked, in the order of ``logprob_request.rows``.
    """

    token_ids: Tensor
    logprobs: LogprobTensors | None
    logprob_request: LogprobRequest | None

    def to_host(self) -> HostTokens:
        """Copy everything over with a single wait for the device."""
        return self.start_copy().wait()

    def start_copy(self) -> ComingTokens:
        """Begin to copy everything over, without waiting for the device."""
        tensors = [] if self.logprobs is None else self.logprobs.tensors
        return ComingTokens(HostCopy([self.token_ids, *tensors]), self.logprob_request)


@dataclass(frozen=True, slots=True)
class ComingTokens:
    """The tokens of one step on their way to the host."""

    copy: HostCopy
    logprob_request: LogprobRequest | None

    def wait(self) -> HostTokens:
        """The tokens, once the device has them."""
        first, *others = self.copy.wait()
        token_ids: list[int] = first.tolist()
        logprobs: list[PositionLogprobs | None] = [None] * len(token_ids)
        if self.logprob_request is not None:
            request = self.logprob_request
            entries = position_lists(others, request.counts)
            for row, entry in zip(request.rows, entries, strict=True):
                logprobs[row] = None if token_ids[row] == INVALID_TOKEN_ID else entry
        return HostTokens(token_ids, logprobs, _invalid_rows(token_ids))


def _invalid_rows(token_ids: list[int]) -> list[int]:
    if INVALID_TOKEN_ID not in token_ids:
        return []
    return [row for row, token_id in enumerate(token_ids) if token_id == INVALID_TOKEN_ID]


class Sampler:
    """Chooses the next token of every row, in vLLM's order.

    Log probabilities are taken from the raw logits. Then come logit_bias, min_tokens, repetition,
    frequency and presence penalty; greedy rows take the maximum; for the others follow
    temperature, min_p, top_k, top_p and the draw.

    A draw is the maximum of ``logit - log(noise)`` with exponential noise, which falls on each
    token with its probability (an exponential race). The noise of a seeded row comes from its own
    generator, so its tokens depend on its own logits, seed and step alone.

    Args:
        seed: for the rows without a seed of their own, which share one generator; None takes
            one from the system.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def __call__(self, logits: Tensor, batch: SamplingBatch) -> SampledTokens:
        """Sample one token per row; the device is not waited for and ``logits`` stay as they are.

        Args:
            logits: [rows, vocab], any float type.
            batch: as many rows, built for this device and vocabulary.
        """
        edited = batch.edited(logits)
        best, token_ids = edited.max(dim=-1)
        if batch.random is not None:
            token_ids = self._with_draws(edited, token_ids, batch.random)
        # NaN spreads to the maximum, so one finite maximum vouches for the whole row.
        token_ids = torch.where(best.isfinite(), token_ids, INVALID_TOKEN_ID)
        wanted = batch.logprobs
        logprobs = None if wanted is None else wanted.gather(logits, token_ids)
        return SampledTokens(token_ids, logprobs, wanted)

    def _with_draws(self, logits: Tensor, token_ids: Tensor, random: RandomRows) -> Tensor:
        if random.indices is None:
            return self._draw(logits, random)
        drawn = self._draw(logits.index_select(0, random.indices), random)
        return token_ids.index_copy(0, random.indices, drawn)

    def _draw(self, logits: Tensor, random: RandomRows) -> Tensor:
        """Draw from ``logits`` [random rows, vocab]."""
        scores = logits / random.temperature
        truncate_(scores, random.min_p_log, random.truncations)
        noise = self._noise(scores, random)
        return scores.sub_(noise.log_()).argmax(dim=-1)

    def _noise(self, scores: Tensor, random: RandomRows) -> Tensor:
        noise = torch.empty_like(scores)
        if not random.all_seeded:
            noise.exponential_(generator=self._shared_generator(scores.device))
        for place, generator in random.generators:
            noise[place].exponential_(generator=generator)
        # Zero noise would let a token that was left out win the race.
        return noise.clamp_(min=SMALLEST_NOISE)

    def _shared_generator(self, device: torch.device) -> torch.Generator:
        generator = self._generators.get(device)
        if generator is None:
            generator = torch.Generator(device=device)
            generator.seed() if self._seed is None else generator.manual_seed(self._seed)
            self._generators[device] = generator
        return generator
