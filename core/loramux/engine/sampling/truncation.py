"""min_p, top_k and top_p: which tokens may be drawn at all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from loramux.engine.sampling.transfer import to_device
from loramux.sampling_params import SamplingParams

NUCLEUS_HEAD = 4096
"""How many of the likeliest tokens are tried before all are sorted for ``top_p``."""


@dataclass(frozen=True, slots=True)
class Truncation:
    """Rows that keep their ``top_k`` likeliest tokens, of those the ``top_p`` nucleus.

    Args:
        rows: their indices, or None for every row.
        top_k: [rows], or None where no row of this group has one.
        top_p: [rows], infinite where a row has none; or None where no row of this group has one.
        width: the largest ``top_k``.
    """

    rows: Tensor | None
    top_k: Tensor | None
    top_p: Tensor | None
    width: int

    def cutoff(self, logits: Tensor) -> Tensor:
        """Least logit [rows, 1] that each of these rows keeps; ties with it are kept too."""
        if self.rows is not None:
            logits = logits.index_select(0, self.rows)
        if self.top_k is None:
            return _nucleus_of_all(logits, self.top_p)
        top = logits.topk(self.width, dim=1).values
        least = top.gather(1, (self.top_k - 1).unsqueeze(1))
        if self.top_p is None:
            return least
        mass = _mass(top, logits.masked_fill(logits < least, -torch.inf))
        return torch.maximum(least, _nucleus(top, mass, self.top_p))


def _nucleus_of_all(logits: Tensor, top_p: Tensor | None) -> Tensor:
    """Cutoff of ``top_p`` alone.

    Sorting a whole vocabulary takes five times as long as finding its likeliest few thousand
    tokens, which nearly always reach ``top_p``; finding out whether they do is the one place
    where the sampler waits for the device before its end.
    """
    assert top_p is not None
    if logits.shape[1] <= 2 * NUCLEUS_HEAD:
        return _nucleus_by_sorting(logits, top_p)
    top = logits.topk(NUCLEUS_HEAD, dim=1).values
    mass = _mass(top, logits)
    cutoff = _nucleus(top, mass, top_p)
    short = (mass[:, -1] < top_p).nonzero().squeeze(1)
    if len(short) == 0:
        return cutoff
    # Each row by itself, so that none depends on its company.
    return cutoff.index_copy_(0, short, _nucleus_by_sorting(logits[short], top_p[short]))


def _nucleus_by_sorting(logits: Tensor, top_p: Tensor) -> Tensor:
    top = logits.sort(dim=1, descending=True).values
    return _nucleus(top, _mass(top, logits), top_p)


def _mass(top: Tensor, kept: Tensor) -> Tensor:
    """Probability under ``kept`` of each of the ``top`` logits and all that are above it."""
    return (top - kept.logsumexp(dim=1, keepdim=True)).exp_().cumsum(dim=1)


def _nucleus(top: Tensor, mass: Tensor, top_p: Tensor) -> Tensor:
    """Logit [rows, 1] of the last token needed to reach ``top_p``."""
    needed = (mass[:, :-1] < top_p.unsqueeze(1)).sum(dim=1, keepdim=True)
    return top.gather(1, needed)


def truncations(
    params: Sequence[SamplingParams], vocab_size: int, device: torch.device
) -> list[Truncation]:
    """At most two groups: rows with ``top_k`` need little sorting, the others a full sort."""
    top_k = [i for i, p in enumerate(params) if 0 < p.top_k < vocab_size]
    only_top_p = [i for i, p in enumerate(params) if p.top_p < 1.0 and not 0 < p.top_k < vocab_size]
    groups = []
    if top_k:
        counts = [params[i].top_k for i in top_k]
        groups.append(
            Truncation(
                rows=_indices(top_k, len(params), device),
                top_k=to_device(counts, torch.int64, device),
                top_p=_top_p([params[i].top_p for i in top_k], device),
                width=max(counts),
            )
        )
    if only_top_p:
        groups.append(
            Truncation(
                rows=_indices(only_top_p, len(params), device),
                top_k=None,
                top_p=_top_p([params[i].top_p for i in only_top_p], device),
                width=0,
            )
        )
    return groups


def _top_p(values: list[float], device: torch.device) -> Tensor | None:
    # Rounding may carry a sum of probabilities past 1 before its end, so 1 must never be reached.
    bounds = [value if value < 1.0 else math.inf for value in values]
    return None if min(bounds) == math.inf else to_device(bounds, torch.float32, device)


def _indices(chosen: list[int], total: int, device: torch.device) -> Tensor | None:
    return None if len(chosen) == total else to_device(chosen, torch.int64, device)


def min_p_logs(params: Sequence[SamplingParams], device: torch.device) -> Tensor | None:
    """log(min_p) [rows, 1], minus infinity where a row has none; None if no row has one."""
    if not any(p.min_p for p in params):
        return None
    logs = [math.log(p.min_p) if p.min_p else -math.inf for p in params]
    return to_device(logs, torch.float32, device).unsqueeze(1)


def truncate_(logits: Tensor, min_p_log: Tensor | None, groups: Sequence[Truncation]) -> None:
    """Set to minus infinity, in place, what min_p, then top_k, then top_p leave out.

    Args:
        logits: [rows, vocab] after temperature.
        min_p_log: see ``min_p_logs``.
        groups: see ``truncations``.
    """
    if min_p_log is not None:
        logits.masked_fill_(logits < logits.amax(dim=1, keepdim=True) + min_p_log, -torch.inf)
    if not groups:
        return
    cutoff = logits.new_full((logits.shape[0], 1), -torch.inf)
    for group in groups:
        least = group.cutoff(logits)
        cutoff = least if group.rows is None else cutoff.index_copy_(0, group.rows, least)
    logits.masked_fill_(logits < cutoff, -torch.inf)
