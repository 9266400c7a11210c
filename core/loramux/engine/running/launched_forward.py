"""A step whose forward pass is under way, and whose tokens are yet to be chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from loramux.engine.running.prompt_positions import PromptPositions
from loramux.engine.running.step_layout import StepLayout
from loramux.engine.sampling.transfer import to_device
from loramux.engine.scheduling.scheduler import Chunk


@dataclass(frozen=True, eq=False)
class LaunchedForward:
    """What the model gives for the chunks of a step, still on the device.

    It says nothing of tokens, so that those of the step before need not be known to launch it.
    """

    layout: StepLayout
    states: Tensor
    """Valid until the next forward pass. Logits ``[rows, vocab]``, of the chunks that sample and
    then of ``prompts``; where embeddings are made, the hidden states that the pooler wants."""
    prompts: list[PromptPositions] = field(default_factory=list)

    @property
    def chunks(self) -> list[Chunk]:
        return [rows.chunk for rows in self.layout.rows]

    def logits_of(self, chunks: Sequence[Chunk]) -> Tensor:
        """Logits of those of ``chunks`` that sample; a copy only where others are left out."""
        if len(chunks) == len(self.layout.rows):
            return self.states[: len(self.layout.logit_rows)]
        wanted = set(chunks)
        sampling = [chunk for chunk in self.chunks if chunk.samples]
        places = [place for place, chunk in enumerate(sampling) if chunk in wanted]
        return self.states.index_select(0, to_device(places, torch.int64, self.states.device))

    @property
    def prompt_logits(self) -> Tensor:
        """Logits of ``prompts``, one after another."""
        return self.states[len(self.layout.logit_rows) :]
