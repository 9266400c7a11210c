"""A place in the base model where an adapter may act."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class SiteKind(StrEnum):
    """How the base layer at a site computes; decides what a LoRA pair means there."""

    LINEAR = "linear"
    """``torch.nn.Linear``: ``y = x W^T``."""
    CONV1D = "conv1d"
    """transformers' ``Conv1D`` (GPT-2): the same product with the weight stored transposed."""
    EMBEDDING = "embedding"
    """``torch.nn.Embedding``: ``y = W[ids]``."""


@dataclass(frozen=True)
class LoRASite:
    """One layer of the base model that a PEFT adapter may target.

    Args:
        name: dotted module path in the transformers model, as PEFT writes it after
            ``base_model.model.``, e.g. ``model.layers.0.self_attn.q_proj``.
        in_features: width of the input (vocabulary size for an embedding).
        out_features: width of the output.
        is_output: whether this is the model's output embedding (``lm_head``), which PEFT's
            ``all-linear`` leaves out.
        bare_name: what PEFT writes instead of ``name`` where the adapter was trained on the
            decoder without its output layer (``AutoModel``), e.g. ``layers.0.self_attn.q_proj``;
            None where such adapters are not served.
    """

    name: str
    kind: SiteKind
    in_features: int
    out_features: int
    is_output: bool = False
    bare_name: str | None = None


@dataclass(frozen=True)
class PackedSites:
    """Sites whose weights lie in one tensor, so that one product computes them all.

    Args:
        name: dotted path of the product, e.g. ``model.layers.0.self_attn.qkv_proj``.
        sites: what the product's columns belong to, in order; each takes ``out_features`` of them.
    """

    name: str
    sites: tuple[LoRASite, ...]
