"""What every way to run the model promises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from loramux.engine.args import EngineArgs
from loramux.engine.running.step_layout import StepLayout
from loramux.engine.scheduling.scheduler import Chunk
from loramux.lora.device.packed import AdapterRows
from loramux_kernels.paged_attention import LayerCache


class Forward(Protocol):
    """Runs the model over one step; what it returns may still be on its way on the device."""

    def use(self, caches: dict[int, LayerCache]) -> None:
        """Read and write these caches from now on."""
        ...

    def capture(self, args: EngineArgs, max_model_len: int) -> None:
        """Prepare steps that can be launched as a whole, where there is a way; called once."""
        ...

    def arrange(self, chunks: Sequence[Chunk]) -> Sequence[Chunk]:
        """The order of the chunks that is cheapest to compute."""
        ...

    def __call__(self, layout: StepLayout, logit_rows: list[int]) -> Tensor:
        """Logits ``[len(logit_rows), vocab]``, valid until the next call.

        Of a ``Backbone``, which has no output layer, the hidden states in their place.
        """
        ...


def adapters_of_tokens(layout: StepLayout) -> list[AdapterRows]:
    """Adapters of all rows, in order."""
    return [(rows.chunk.sequence.adapter, rows.start, rows.stop) for rows in layout.rows]


def adapters_of_rows(tokens: list[AdapterRows], rows: list[int]) -> list[AdapterRows]:
    """Adapters of single rows of a batch, renumbered from 0 in the order of ``rows``."""
    adapter_of = {row: adapter for adapter, start, stop in tokens for row in range(start, stop)}
    return [(adapter_of[row], place, place + 1) for place, row in enumerate(rows)]
