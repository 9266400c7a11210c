"""Log probabilities of chosen tokens and of the likeliest ones, from logits as the model gave them.

Nothing here knows of temperature, penalties or truncation: what is reported is the model's own
opinion, as in vLLM's default ``raw_logprobs`` mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from loramux.engine.messages import PositionLogprobs
from loramux.engine.sampling.row import SamplingRow
from loramux.engine.sampling.transfer import to_device, to_host

POSITIONS_AT_ONCE = 256
"""Prompt positions whose log probabilities are held in float32 at the same time."""

TOKENS_AT_ONCE = 2**22
"""Likeliest tokens of several positions that the device holds; one may ask for all there are."""


@dataclass(frozen=True, slots=True)
class LogprobTensors:
    """Log probabilities of several positions, on the device of the logits.

    Args:
        token_ids: [positions, 1 + k], the position's own token and then the k likeliest.
        logprobs: [positions, 1 + k] float32, in the same order.
        ranks: [positions], rank of the position's own token.
    """

    token_ids: Tensor
    logprobs: Tensor
    ranks: Tensor

    def to_host(self) -> list[PositionLogprobs]:
        """Wait for the device and give one entry per position."""
        counts = [self.token_ids.shape[1] - 1] * self.ranks.shape[0]
        return position_lists(to_host(self.tensors), counts)

    @property
    def tensors(self) -> list[Tensor]:
        return [self.token_ids, self.logprobs, self.ranks]


def position_lists(tensors: Sequence[Tensor], counts: Sequence[int]) -> list[PositionLogprobs]:
    """``LogprobTensors.tensors`` on the host as lists, with ``counts`` likeliest tokens each."""
    token_ids, logprobs, ranks = (tensor.tolist() for tensor in tensors)
    return [
        PositionLogprobs(ids[: count + 1], values[: count + 1], rank)
        for ids, values, rank, count in zip(token_ids, logprobs, ranks, counts, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class LogprobRequest:
    """Which rows of a batch want log probabilities, and of how many likeliest tokens each."""

    rows: list[int]
    counts: list[int]
    indices: Tensor | None
    """``rows`` on the device, or None for every row."""

    def gather(self, logits: Tensor, token_ids: Tensor) -> LogprobTensors:
        """Log probabilities of the rows' ``token_ids`` under ``logits`` [batch, vocab]."""
        if self.indices is not None:
            logits = logits.index_select(0, self.indices)
            token_ids = token_ids.index_select(0, self.indices)
        return token_logprobs(logits, token_ids, max(self.counts))

    @classmethod
    def of(
        cls, rows: Sequence[SamplingRow], vocab_size: int, device: torch.device
    ) -> LogprobRequest | None:
        wanted = {i: r.params.logprobs for i, r in enumerate(rows) if r.params.logprobs is not None}
        if not wanted:
            return None
        chosen = list(wanted)
        return cls(
            rows=chosen,
            counts=[_bounded(count, vocab_size) for count in wanted.values()],
            indices=None if len(wanted) == len(rows) else to_device(chosen, torch.int64, device),
        )


def token_logprobs(logits: Tensor, token_ids: Tensor, count: int) -> LogprobTensors:
    """Log probabilities of ``token_ids`` [rows] and of the ``count`` likeliest tokens of each row.

    A negative token id marks a row without a token; what it gets means nothing.
    """
    logprobs = logits.log_softmax(dim=-1, dtype=torch.float32)
    own_ids = token_ids.clamp(min=0).unsqueeze(1)
    own = logprobs.gather(1, own_ids)
    top = logprobs.topk(count, dim=1)
    return LogprobTensors(
        token_ids=torch.cat([own_ids, top.indices], dim=1),
        logprobs=torch.cat([own, top.values], dim=1),
        ranks=(logprobs > own).sum(dim=1) + 1,
    )


def prompt_logprobs(
    logits: Tensor, next_token_ids: Tensor, num_logprobs: int
) -> list[PositionLogprobs]:
    """Log probabilities of prompt tokens, each under the logits of the position before it.

    Waits for the device, some positions at a time, so that it never holds those of many.

    Args:
        logits: [positions, vocab] of some positions of one prompt.
        next_token_ids: [positions], the prompt token that follows each of them.
        num_logprobs: how many of the likeliest tokens to give as well; -1 for all.
    """
    count = _bounded(num_logprobs, logits.shape[1])
    size = max(1, min(POSITIONS_AT_ONCE, TOKENS_AT_ONCE // (1 + count)))
    parts = zip(torch.split(logits, size), torch.split(next_token_ids, size), strict=True)
    return [entry for part in parts for entry in token_logprobs(*part, count).to_host()]


def _bounded(count: int, vocab_size: int) -> int:
    return vocab_size if count < 0 else min(count, vocab_size)
