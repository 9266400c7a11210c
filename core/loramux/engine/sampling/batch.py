"""The rows of one step as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from loramux.engine.sampling.edits import LogitEdits, Penalties, logit_bias, unripe_endings
from loramux.engine.sampling.logprobs import LogprobRequest
from loramux.engine.sampling.masks import GrammarMasks
from loramux.engine.sampling.row import SamplingRow
from loramux.engine.sampling.transfer import to_device
from loramux.engine.sampling.truncation import Truncation, min_p_logs, truncations


@dataclass(frozen=True, slots=True)
class RandomRows:
    """The rows of a batch that draw their token.

    Args:
        indices: their indices in the batch, or None for every row.
        temperature: [random rows, 1].
        min_p_log: see ``truncation.min_p_logs``.
        truncations: see ``truncation.truncations``.
        generators: place among the random rows and generator of each seeded one.
        num_rows: how many rows draw.
    """

    indices: Tensor | None
    temperature: Tensor
    min_p_log: Tensor | None
    truncations: list[Truncation]
    generators: list[tuple[int, torch.Generator]]
    num_rows: int

    @property
    def all_seeded(self) -> bool:
        return len(self.generators) == self.num_rows

    @classmethod
    def of(
        cls, rows: Sequence[SamplingRow], vocab_size: int, device: torch.device
    ) -> RandomRows | None:
        chosen = [index for index, row in enumerate(rows) if not row.params.is_greedy]
        if not chosen:
            return None
        drawing = [rows[index] for index in chosen]
        params = [row.params for row in drawing]
        temperature = to_device([p.temperature for p in params], torch.float32, device)
        every_row = len(chosen) == len(rows)
        return cls(
            indices=None if every_row else to_device(chosen, torch.int64, device),
            temperature=temperature.unsqueeze(1),
            min_p_log=min_p_logs(params, device),
            truncations=truncations(params, vocab_size, device),
            generators=[(i, r.generator) for i, r in enumerate(drawing) if r.generator is not None],
            num_rows=len(drawing),
        )


@dataclass(frozen=True, slots=True)
class SamplingBatch:
    """What the sampler has to do at one step. Make one with ``build``.

    ``random``, ``bias`` and ``logprobs`` depend on the rows alone; ``endings``, ``penalties`` and
    ``masks`` change with every token. Each is None where no row needs it.
    """

    rows: list[SamplingRow]
    vocab_size: int
    device: torch.device
    random: RandomRows | None
    bias: LogitEdits | None
    logprobs: LogprobRequest | None
    endings: LogitEdits | None
    penalties: Penalties | None
    masks: GrammarMasks | None

    @classmethod
    def build(
        cls,
        rows: Sequence[SamplingRow],
        vocab_size: int,
        device: torch.device,
        previous: SamplingBatch | None = None,
    ) -> SamplingBatch:
        """The batch of ``rows``, in the order of the logits.

        Args:
            rows: one per row of logits.
            vocab_size: width of the logits.
            device: where the logits are.
            previous: the batch of the step before; if it had the same rows in the same order,
                everything that does not change from token to token is taken over.
        """
        rows = list(rows)
        endings = unripe_endings(rows, vocab_size, device)
        penalties = Penalties.of(rows, vocab_size, device)
        masks = GrammarMasks.of(rows, vocab_size, device)
        if previous is not None and previous._fits(rows, vocab_size, device):
            return replace(previous, endings=endings, penalties=penalties, masks=masks)
        return cls(
            rows=rows,
            vocab_size=vocab_size,
            device=device,
            random=RandomRows.of(rows, vocab_size, device),
            bias=logit_bias(rows, vocab_size, device),
            logprobs=LogprobRequest.of(rows, vocab_size, device),
            endings=endings,
            penalties=penalties,
            masks=masks,
        )

    def edited(self, logits: Tensor) -> Tensor:
        """``logits`` after bias, min_tokens, penalties and masks: a float32 copy if any apply."""
        all_edits = (self.bias, self.endings, self.penalties, self.masks)
        edits = [edit for edit in all_edits if edit is not None]
        if not edits:
            return logits
        copy = logits.to(torch.float32, copy=True)
        for edit in edits:
            edit.apply_(copy)
        return copy

    def _fits(self, rows: list[SamplingRow], vocab_size: int, device: torch.device) -> bool:
        return self.rows == rows and self.vocab_size == vocab_size and self.device == device
