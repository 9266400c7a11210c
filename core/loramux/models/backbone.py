"""A causal decoder without its output layer: hidden states instead of logits."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel


class Backbone(nn.Module):
    """transformers' bare decoder (``Qwen3Model``), run as the model around it would be.

    Its layers bear the names that they have in that model (``model.layers.0...``), so that
    whatever finds them there finds them here; there is no ``lm_head``.

    Attributes:
        prefix: what those names begin with.
    """

    def __init__(self, decoder: PreTrainedModel) -> None:
        super().__init__()
        self.prefix = str(decoder.base_model_prefix)
        self.config = decoder.config
        self.add_module(self.prefix, decoder)

    @property
    def decoder(self) -> nn.Module:
        """transformers' model."""
        return self.get_submodule(self.prefix)

    def forward(self, *, logits_to_keep: Tensor | None = None, **inputs: Any) -> tuple[Tensor]:
        """Hidden states ``[1, rows, hidden_size]`` after the last norm.

        Args:
            logits_to_keep: the rows that are wanted; None for all.
            inputs: of transformers' model.
        """
        hidden: Tensor = self.decoder(**inputs).last_hidden_state
        return (hidden if logits_to_keep is None else hidden[:, logits_to_keep],)
