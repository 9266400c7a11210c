"""What the grammars of a batch leave of the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loramux.engine.sampling.row import SamplingRow
from loramux.engine.sampling.transfer import to_device


@dataclass(frozen=True, slots=True)
class GrammarMasks:
    """Rows that may go on with some tokens only.

    Args:
        rows: their indices in the batch.
        allowed: [rows, vocab / 8, rounded up] uint8, one bit for each token, the lowest first.
    """

    rows: Tensor
    allowed: Tensor

    def apply_(self, logits: Tensor) -> None:
        """Give every other token of these rows minus infinity in ``logits`` [rows, vocab]."""
        places = torch.arange(8, dtype=torch.uint8, device=logits.device)
        bits = (self.allowed.unsqueeze(-1) >> places) & 1
        refused = bits.flatten(1)[:, : logits.shape[1]] == 0
        kept = logits.index_select(0, self.rows).masked_fill_(refused, -torch.inf)
        logits.index_copy_(0, self.rows, kept)

    @classmethod
    def of(
        cls, rows: Sequence[SamplingRow], vocab_size: int, device: torch.device
    ) -> GrammarMasks | None:
        """The masks due at this step, or None."""
        masks = {
            index: row.grammar.mask() for index, row in enumerate(rows) if row.grammar is not None
        }
        if not masks:
            return None
        width = -(-vocab_size // 8)
        packed = np.stack([_resized(mask, width) for mask in masks.values()])
        return cls(
            rows=to_device(list(masks), torch.int64, device),
            allowed=to_device(torch.from_numpy(packed), torch.uint8, device),
        )


def _resized(mask: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """A vocabulary may be narrower than the logits, which are padded, or wider than them."""
    return np.pad(mask[:width], (0, max(0, width - len(mask))))
