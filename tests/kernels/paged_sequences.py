"""Attention of a batch over pages, sequence by sequence, as the fakes of libraries compute it."""

from __future__ import annotations

import torch
from torch import Tensor


def gather(cache: Tensor, pages: list[int], length: int) -> Tensor:
    """The first ``length`` tokens that lie in ``pages``, ``[length, num_kv_heads, dim]``."""
    size = cache.shape[1]
    assert len(pages) >= -(-length // size), "a sequence has fewer pages than it fills"
    assert all(0 <= page < cache.shape[0] for page in pages), "a page outside of the cache is read"
    parts = [cache[page, : length - size * i] for i, page in enumerate(pages) if length > size * i]
    return torch.cat(parts) if parts else cache[0, :0]


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    scale: float,
    causal: bool,
    window_left: int,
    window_right: int,
    softcap: float,
) -> Tensor:
    """One sequence, its queries at the end of its keys; rows that see nothing are zero.

    Key ``k`` is seen by the query at position ``p`` if ``p - window_left <= k <= p +
    window_right``; -1 is no bound, and ``causal`` is a right bound of 0.
    """
    out = torch.zeros_like(query)
    group = query.shape[1] // keys.shape[1]
    for row in range(len(query)):
        position = len(keys) - len(query) + row
        right = 0 if causal else window_right
        first = 0 if window_left < 0 else max(0, position - window_left)
        last = len(keys) if right < 0 else min(len(keys), position + right + 1)
        for head in range(query.shape[1]) if first < last else ():
            seen = keys[first:last, head // group].double()
            scores = seen @ query[row, head].double() * scale
            if softcap > 0:
                scores = softcap * torch.tanh(scores / softcap)
            weights = torch.softmax(scores, dim=0)
            out[row, head] = (weights @ values[first:last, head // group].double()).to(out.dtype)
    return out
