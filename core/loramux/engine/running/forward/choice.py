"""Which way a model is run."""

from __future__ import annotations

from loramux.engine.running.attention import AttentionBackend
from loramux.engine.running.forward.base import Forward
from loramux.engine.running.forward.fused import FusedForward
from loramux.engine.running.forward.transformers import TransformersForward
from loramux.engine.running.tokens_in_flight import TokensInFlight
from loramux.lora.device.runtime import LoRARuntime
from loramux.models.loader import LoadedModel


def choose_forward(
    loaded: LoadedModel,
    attention: AttentionBackend,
    in_flight: TokensInFlight,
    lora: LoRARuntime | None,
) -> Forward:
    """The fused decoder where the model has one, else transformers' own code."""
    if loaded.decoder is None:
        return TransformersForward(loaded.model, attention, in_flight, lora)
    packed = None if lora is None else lora.packed
    return FusedForward(loaded.decoder, attention, in_flight, packed, loaded.device)
