"""Sampled tokens that go from one step to the next without leaving the device."""

from __future__ import annotations

import torch
from torch import Tensor


class TokensInFlight:
    """The tokens of the latest step, at an address that captured graphs can read."""

    def __init__(self, max_num_seqs: int, device: torch.device) -> None:
        self._tokens = torch.zeros(max_num_seqs, dtype=torch.int64, device=device)

    def keep(self, token_ids: Tensor) -> None:
        """Remember the tokens of a step; those of invalid rows (-1) become any that exists."""
        torch.clamp(token_ids, min=0, out=self._tokens[: len(token_ids)])

    def resolve(self, token_ids: Tensor) -> Tensor:
        """Put the tokens in flight where ``token_ids`` ``[rows]`` holds ``-1 - row`` for them."""
        row = (-1 - token_ids).clamp_(min=0)
        return torch.where(token_ids < 0, self._tokens.index_select(0, row), token_ids)
