"""Brings paged attention into transformers models through their attention interface."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from loramux_kernels.paged_attention import AttentionOptions, LayerCache

ATTENTION_NAME = "loramux_paged"
"""Must not start with ``paged|``, which transformers reserves for its own batching."""

Attend = Callable[[Tensor, LayerCache, AttentionOptions], Tensor]
"""Attends queries ``[num_rows, num_heads, head_dim]`` of one step to a layer's cache; returns
``[num_rows, num_heads, value_dim]``."""
Store = Callable[[LayerCache, Tensor, Tensor, Tensor], None]
"""Stores at slots ``[num_rows]`` keys and values ``[num_rows, num_kv_heads, dim]``."""


@dataclass
class AttentionContext:
    """Handed to ``model(...)`` as ``attention_context``; reaches every attention layer."""

    caches: dict[int, LayerCache]
    slots: Tensor
    store: Store
    attend: Attend


@dataclass
class KVShape:
    """Heads and widths of one layer's keys and values."""

    num_heads: int
    key_dim: int
    value_dim: int
    group: int = 1
    """Query heads to each of the heads."""


class BidirectionalError(Exception):
    """A token of the model sees those that follow it, which no cache of the past can give it."""


@dataclass
class KVShapeProbe:
    """Stands in for the context in one dry run, and records what each layer would store."""

    shapes: dict[int, KVShape] = field(default_factory=dict)

    def record(
        self, module: nn.Module, layer: int, query: Tensor, key: Tensor, value: Tensor
    ) -> Tensor:
        if not getattr(module, "is_causal", True):
            raise BidirectionalError
        num_heads, group = key.shape[1], query.shape[1] // key.shape[1]
        self.shapes[layer] = KVShape(num_heads, key.shape[3], value.shape[3], group)
        return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[3])


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    attention_context: AttentionContext | KVShapeProbe,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_unused: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function over the paged cache.

    Shapes:
        query: ``[1, num_heads, num_rows, head_dim]``; key, value: ``[1, num_kv_heads, ...]``.
        returns: ``[1, num_rows, num_heads, value_dim]``.
    """
    layer = cast(int, module.layer_idx)
    if isinstance(attention_context, KVShapeProbe):
        return attention_context.record(module, layer, query, key, value), None
    cache = attention_context.caches[layer]
    keys, values = key[0].transpose(0, 1), value[0].transpose(0, 1)
    attention_context.store(cache, attention_context.slots, keys, values)
    options = AttentionOptions(
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=sliding_window,
        softcap=softcap,
        sinks=s_aux,
    )
    return attention_context.attend(query[0].transpose(0, 1), cache, options)[None], None


AttentionInterface.register(ATTENTION_NAME, attend)


def probe_kv_shapes(model: nn.Module) -> dict[int, KVShape]:
    """Learn the shape of every layer's keys and values by one forward pass over one token.

    Families describe their caches in different configuration fields; the tensors do not lie.

    Raises:
        BidirectionalError: a layer attends in both directions.
    """
    probe = KVShapeProbe()
    device = next(model.parameters()).device
    token = torch.zeros(1, 1, dtype=torch.long, device=device)
    with torch.inference_mode():
        model(input_ids=token, position_ids=token, use_cache=False, attention_context=probe)
    return dict(sorted(probe.shapes.items()))
