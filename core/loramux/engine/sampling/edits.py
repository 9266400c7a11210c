"""Changes to single logits: biases, tokens that may not come yet, and penalties."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loramux.engine.sampling.row import SamplingRow
from loramux.engine.sampling.transfer import to_device


@dataclass(frozen=True, slots=True)
class LogitEdits:
    """Values to add to single logits, as three flat tensors of one length."""

    rows: Tensor
    token_ids: Tensor
    values: Tensor

    def apply_(self, logits: Tensor) -> None:
        """Add the values to ``logits`` [rows, vocab] in place."""
        logits.index_put_((self.rows, self.token_ids), self.values, accumulate=True)


def logit_bias(
    rows: Sequence[SamplingRow], vocab_size: int, device: torch.device
) -> LogitEdits | None:
    """The rows' ``logit_bias``."""
    entries = [
        (index, token_id, value)
        for index, row in enumerate(rows)
        if row.params.logit_bias
        for token_id, value in row.params.logit_bias.items()
    ]
    return _edits(entries, vocab_size, device)


def unripe_endings(
    rows: Sequence[SamplingRow], vocab_size: int, device: torch.device
) -> LogitEdits | None:
    """Minus infinity for whatever would end a row that has not reached ``min_tokens``."""
    entries = [
        (index, token_id, float("-inf"))
        for index, row in enumerate(rows)
        if row.awaits_min_tokens
        for token_id in row.ending_token_ids
    ]
    return _edits(entries, vocab_size, device)


def _edits(
    entries: list[tuple[int, int, float]], vocab_size: int, device: torch.device
) -> LogitEdits | None:
    entries = [entry for entry in entries if entry[1] < vocab_size]
    if not entries:
        return None
    rows, token_ids, values = zip(*entries, strict=True)
    return LogitEdits(
        rows=to_device(rows, torch.int64, device),
        token_ids=to_device(token_ids, torch.int64, device),
        values=to_device(values, torch.float32, device),
    )


@dataclass(frozen=True, slots=True)
class Penalties:
    """Repetition, frequency and presence penalties of the rows that have any.

    ``token_ids`` and ``counts`` [penalised rows, longest history] list each row's distinct tokens
    and how often it generated them; shorter rows repeat their first entry, which changes nothing
    because equal entries write equal values.
    """

    rows: Tensor
    token_ids: Tensor
    counts: Tensor
    repetition: Tensor
    frequency: Tensor
    presence: Tensor

    def apply_(self, logits: Tensor) -> None:
        """Penalise ``logits`` [rows, vocab] in place: repetition, then frequency and presence."""
        places = (self.rows, self.token_ids)
        picked = logits[places]
        picked = torch.where(picked > 0, picked / self.repetition, picked * self.repetition)
        picked -= self.frequency * self.counts
        picked -= self.presence * (self.counts > 0)
        logits.index_put_(places, picked)

    @classmethod
    def of(
        cls, rows: Sequence[SamplingRow], vocab_size: int, device: torch.device
    ) -> Penalties | None:
        """The penalties due at this step, or None."""
        histories = [
            (index, row.params, row.history(vocab_size))
            for index, row in enumerate(rows)
            if row.has_penalties
        ]
        due = [entry for entry in histories if len(entry[2])]
        if not due:
            return None
        indices, params, counted = zip(*due, strict=True)
        width = max(map(len, counted))

        def column(values: Sequence[float], dtype: torch.dtype = torch.float32) -> Tensor:
            return to_device(values, dtype, device).unsqueeze(1)

        return cls(
            rows=column(indices, torch.int64),
            token_ids=_padded([history.token_ids for history in counted], width, device),
            counts=_padded([history.counts for history in counted], width, device),
            repetition=column([p.repetition_penalty for p in params]),
            frequency=column([p.frequency_penalty for p in params]),
            presence=column([p.presence_penalty for p in params]),
        )


def _padded(arrays: Sequence[NDArray[Any]], width: int, device: torch.device) -> Tensor:
    firsts = torch.from_numpy(np.array([array[0] for array in arrays]))
    tensor = torch.empty(
        (len(arrays), width), dtype=firsts.dtype, pin_memory=device.type == "cuda"
    ).copy_(firsts.unsqueeze(1))
    for line, array in zip(tensor.numpy(), arrays, strict=True):
        line[: len(array)] = array
    return tensor.to(device, non_blocking=True)
