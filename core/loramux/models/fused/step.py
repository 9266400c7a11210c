"""What the fused decoder is given for one step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from loramux.lora.product_updates import ProductUpdates
from loramux.models.attention import Attend
from loramux_kernels.paged_attention import LayerCache


class StepLoRA(ProductUpdates, Protocol):
    """What the adapters of a step add; rows of the base model stay what they are to the bit."""

    def add_embedding_(self, y: Tensor, ids: Tensor) -> None:
        """Update embeddings ``[rows, hidden_size]`` of tokens ``[rows]``.

        The decoder multiplies by the family's embedding scale afterwards, which so scales the
        update as well: it must not be scaled here.
        """

    def add_output_(self, y: Tensor, x: Tensor) -> None:
        """Update logits ``[n, vocab_size]``, not capped yet, of rows ``[n, hidden_size]``.

        The rows are those of ``FusedStep.logit_rows``, in its order.
        """


@dataclass(frozen=True, eq=False)
class FusedStep:
    """One step: the tokens of all sequences one after another.

    Shapes:
        input_ids, positions: ``[rows]``.
        slots: ``[rows]``, where each token goes in the caches; -1 stores nothing.
        logit_rows: ``[n]``, the rows whose logits are wanted; None for all.

    Args:
        caches: keys and values by index of the layer.
        attend: attention over one layer's cache, which has the step's keys and values by then.
        lora: what adapters add; None when no row has one.
    """

    input_ids: Tensor
    positions: Tensor
    slots: Tensor
    logit_rows: Tensor | None
    caches: Mapping[int, LayerCache]
    attend: Attend
    lora: StepLoRA | None
