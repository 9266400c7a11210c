"""Applies adapters to the layers of a transformers model, without replacing any of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from loramux.lora.device.plan import LoRAPlan
from loramux.lora.device.stack import AdapterStack
from loramux.lora.site import LoRASite, SiteKind
from loramux_kernels.lora import (
    add_grouped_embedding_lora_,
    add_grouped_lora_,
    add_segment_embedding_lora_,
    add_segment_lora_,
)


class LoRALayers:
    """A forward hook on every site, which adds the updates of the plan in force.

    Hooks leave the module tree as it is: tied weights stay tied, PEFT's names stay valid, and a
    batch without adapters runs the model's own code.
    """

    def __init__(
        self, model: nn.Module, sites: Mapping[str, LoRASite], stack: AdapterStack
    ) -> None:
        self._stack = stack
        self._token_plan: LoRAPlan | None = None
        self._sample_plan: LoRAPlan | None = None
        modules = dict(model.named_modules())
        for name, site in sites.items():
            modules[name].register_forward_hook(self._hook(site, _embed_scale(modules[name])))

    @contextmanager
    def running(self, tokens: LoRAPlan | None, samples: LoRAPlan | None) -> Iterator[None]:
        """Plans for one forward pass: over all tokens, and over those that reach the output."""
        self._token_plan, self._sample_plan = tokens, samples
        try:
            yield
        finally:
            self._token_plan = self._sample_plan = None

    def _hook(self, site: LoRASite, embed_scale: float) -> Any:
        is_embedding = site.kind is SiteKind.EMBEDDING
        add_group = add_grouped_embedding_lora_ if is_embedding else add_grouped_lora_
        add_segment = add_segment_embedding_lora_ if is_embedding else add_segment_lora_

        def add_update(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            plan = self._sample_plan if site.is_output else self._token_plan
            if plan is None:
                return
            y = output.view(-1, site.out_features)
            x = inputs[0].flatten() if is_embedding else inputs[0].reshape(-1, site.in_features)
            stack = self._stack.get(site.name)
            if plan.groups is not None and stack is not None:
                scaling = stack.scaling * embed_scale if is_embedding else stack.scaling
                add_group(y, x, plan.groups, stack.a, stack.b, scaling)
            for segment in plan.segments:
                pair = segment.adapter.pairs.get(site.name)
                if pair is not None:
                    add_segment(y, x, segment.rows, pair.a, pair.b, pair.scaling * embed_scale)

        return add_update


def _embed_scale(module: nn.Module) -> float:
    """What an embedding multiplies its rows by (Gemma); PEFT scales the update by it as well."""
    scale = getattr(module, "embed_scale", None)
    if scale is None:
        return 1.0
    return float(torch.as_tensor(scale).to(next(module.parameters()).dtype))
