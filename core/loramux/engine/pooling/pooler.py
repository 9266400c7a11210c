"""From the hidden states of a step to the embeddings of the prompts that end in it.

A prompt may be computed in several steps. What its embedding needs of the earlier ones stays with
its sequence, on the device; a sequence that is preempted begins anew, at its first token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from loramux.engine.running.step_layout import StepLayout
from loramux.engine.sampling.transfer import to_device
from loramux.pooling_params import PoolingType


class Pooler(ABC):
    """One way to pool. Sums are made in float32, whatever the model computes in."""

    @abstractmethod
    def rows(self, layout: StepLayout) -> list[int]:
        """The rows of a step whose hidden states are wanted."""

    @abstractmethod
    def pool(self, hidden: Tensor, layout: StepLayout) -> Tensor:
        """Pool one step.

        Shapes:
            hidden: ``[rows, hidden_size]`` after the last norm, of those :meth:`rows`.
            returns: ``[prompts, hidden_size]`` float32, of the chunks that end their prompt.
        """


class LastToken(Pooler):
    """The state of a prompt's last token."""

    def rows(self, layout: StepLayout) -> list[int]:
        return layout.logit_rows

    def pool(self, hidden: Tensor, layout: StepLayout) -> Tensor:
        return hidden.float()


class FirstToken(Pooler):
    """The state of a prompt's first token, kept until the prompt is over."""

    def rows(self, layout: StepLayout) -> list[int]:
        return [rows.start for rows in layout.rows if rows.chunk.first == 0]

    def pool(self, hidden: Tensor, layout: StepLayout) -> Tensor:
        beginning = [rows.chunk.sequence for rows in layout.rows if rows.chunk.first == 0]
        for sequence, state in zip(beginning, hidden.to(torch.float32, copy=True), strict=True):
            sequence.pooled = state
        ending = [rows.chunk.sequence.pooled for rows in layout.rows if rows.chunk.samples]
        states = [state for state in ending if state is not None]
        return torch.stack(states) if states else hidden[:0].float()


class MeanOfTokens(Pooler):
    """The mean over a prompt, whose sum so far is kept from step to step."""

    def rows(self, layout: StepLayout) -> list[int]:
        return list(range(layout.num_rows))

    def pool(self, hidden: Tensor, layout: StepLayout) -> Tensor:
        lengths = to_device([r.stop - r.start for r in layout.rows], torch.int64, hidden.device)
        sums = torch.segment_reduce(hidden.float(), "sum", lengths=lengths, unsafe=True)
        for total, rows in zip(sums, layout.rows, strict=True):
            sequence = rows.chunk.sequence
            if rows.chunk.first > 0:
                assert sequence.pooled is not None, "it began at its first token"
                total.add_(sequence.pooled)
            if not rows.chunk.samples:
                sequence.pooled = total
        ending = [place for place, rows in enumerate(layout.rows) if rows.chunk.samples]
        counts = [layout.rows[place].length for place in ending]
        totals = sums.index_select(0, to_device(ending, torch.int64, hidden.device))
        return totals / to_device(counts, torch.float32, hidden.device)[:, None]


def make_pooler(pooling_type: PoolingType) -> Pooler:
    """The pooler of this type."""
    match pooling_type:
        case PoolingType.LAST:
            return LastToken()
        case PoolingType.MEAN:
            return MeanOfTokens()
        case PoolingType.CLS:
            return FirstToken()
