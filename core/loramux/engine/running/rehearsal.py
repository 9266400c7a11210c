"""Which kernels an engine will launch, found before it launches any."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from loramux.engine.args import EngineArgs
from loramux.engine.running.attention_choice import choose_attention
from loramux.engine.running.forward.fused import FusedForward
from loramux.engine.running.kv_budget import allocate_caches
from loramux.engine.running.tokens_in_flight import TokensInFlight
from loramux.lora.device.runtime import LoRARuntime
from loramux.models.loader import LoadedModel

if TYPE_CHECKING:
    from loramux_kernels.ahead.rehearsal import Specialization


def rehearse(
    args: EngineArgs, loaded: LoadedModel, max_model_len: int, lora: LoRARuntime | None
) -> list[Specialization]:
    """Take every kind of step without launching a kernel, over as few layers as tell them all."""
    attention = choose_attention(args, loaded)
    if loaded.decoder is None or not attention.can_be_captured:
        return []
    from loramux_kernels.ahead.rehearsal import rehearsal

    forward = FusedForward(
        loaded.decoder.excerpt(),
        attention,
        TokensInFlight(args.max_num_seqs, loaded.device),
        None if lora is None else lora.packed,
        loaded.device,
    )
    forward.use(allocate_caches(loaded, 1, args.block_size))
    with rehearsal() as found, torch.inference_mode():
        forward.rehearse(args, max_model_len)
    return list(found)
