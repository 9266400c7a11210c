"""The model as transformers computes it, with adapters added by hooks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from loramux.engine.args import EngineArgs
from loramux.engine.running.attention import AttentionBackend
from loramux.engine.running.forward.base import adapters_of_rows, adapters_of_tokens
from loramux.engine.running.step_layout import StepLayout
from loramux.engine.running.tokens_in_flight import TokensInFlight
from loramux.engine.scheduling.scheduler import Chunk
from loramux.lora.device.runtime import LoRARuntime
from loramux.models.attention import AttentionContext
from loramux_kernels.paged_attention import LayerCache


class TransformersForward:
    """Runs any model that sends its attention through transformers' interface."""

    def __init__(
        self,
        model: nn.Module,
        attention: AttentionBackend,
        in_flight: TokensInFlight,
        lora: LoRARuntime | None,
    ) -> None:
        self._model = model
        self._attention = attention
        self._in_flight = in_flight
        self._lora = lora
        self._device = next(model.parameters()).device
        self._caches: dict[int, LayerCache] = {}

    def use(self, caches: dict[int, LayerCache]) -> None:
        self._caches = caches

    def capture(self, args: EngineArgs, max_model_len: int) -> None:
        """Nothing is captured: what a model's own code does on the host is not known."""

    def arrange(self, chunks: Sequence[Chunk]) -> Sequence[Chunk]:
        """Adapters first and the base model last, see ``LoRARuntime.arrange``."""
        if self._lora is None:
            return chunks
        return self._lora.arrange(chunks, lambda chunk: chunk.sequence.adapter)

    def __call__(self, layout: StepLayout, logit_rows: list[int]) -> Tensor:
        token_ids = torch.tensor(layout.token_ids, device=self._device)
        if min(layout.token_ids) < 0:
            token_ids = self._in_flight.resolve(token_ids)
        slots = torch.tensor(layout.slots, dtype=self._attention.slot_dtype, device=self._device)
        context = AttentionContext(
            self._caches, slots, self._attention.write, self._attention.over(layout, slots)
        )
        with self._adapters(layout, logit_rows):
            output = self._model(
                input_ids=token_ids[None],
                position_ids=torch.tensor([layout.positions], device=self._device),
                use_cache=False,
                logits_to_keep=torch.tensor(logit_rows, dtype=torch.long, device=self._device),
                attention_context=context,
            )
        kept: Tensor = output[0][0]  # the logits, or a Backbone's hidden states
        return kept

    def _adapters(self, layout: StepLayout, logit_rows: list[int]) -> AbstractContextManager[None]:
        if self._lora is None:
            return nullcontext()
        tokens = adapters_of_tokens(layout)
        return self._lora.running(tokens, adapters_of_rows(tokens, logit_rows))
