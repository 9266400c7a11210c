"""Turns the layers of a transformers model into fused ones, one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from loramux.models.fused.families import ACTIVATIONS, Family, Product, Window
from loramux.models.fused.layer import MLP, Attention, FusedLayer
from loramux.models.fused.packing import pack_parameters, return_freed_memory
from loramux.models.fused.product import Projection
from loramux.models.fused.rotary import RotaryTable
from loramux_kernels.blocks import HeadLayout, RMSNorm
from loramux_kernels.paged_attention import AttentionOptions


def layer_types(family: Family, config: Any) -> list[str | None]:
    """Key of each layer's rotary table."""
    if family.rotary_by_layer_type:
        return list(config.layer_types)
    return [None] * config.num_hidden_layers


def read_norm(module: Any, family: Family) -> RMSNorm:
    """A norm that shares its weight with the transformers module."""
    eps = module.eps if family.plus_one_norms else module.variance_epsilon
    return RMSNorm(module.weight.detach(), float(eps), family.plus_one_norms)


@dataclass(frozen=True)
class LayerAssembly:
    """What all layers of one model share while they are built."""

    family: Family
    config: Any
    tables: Mapping[str | None, RotaryTable]

    def build(self, index: int, layer: nn.Module) -> FusedLayer:
        """Pack one layer's weights and read its settings from its modules."""
        qkv, output, gate_up, down = (
            self._projection(layer, product, len(self.family.products) * index + number)
            for number, product in enumerate(self.family.products)
        )
        return_freed_memory(qkv.weight.device)
        activation = ACTIVATIONS[getattr(self.config, self.family.activation)]
        norms = self.family.norms
        return FusedLayer(
            input_norm=self._norm(layer, norms.before_attention),
            attention=self._attention(index, layer, qkv, output),
            after_attention=self._optional_norm(layer, norms.after_attention),
            before_mlp=self._norm(layer, norms.before_mlp),
            mlp=MLP(gate_up, down, activation),
            after_mlp=self._optional_norm(layer, norms.after_mlp),
        )

    def _attention(
        self, index: int, layer: nn.Module, qkv: Projection, output: Projection
    ) -> Attention:
        module: Any = layer.get_submodule("self_attn")
        rotary = self.tables[layer_types(self.family, self.config)[index]]
        has_norms = self.family.head_norms
        heads = HeadLayout(
            num_heads=self.config.num_attention_heads,
            num_kv_heads=self.config.num_key_value_heads,
            head_dim=module.head_dim,
            rotary_dim=rotary.cos.shape[1],
            q_norm=read_norm(module.q_norm, self.family) if has_norms else None,
            k_norm=read_norm(module.k_norm, self.family) if has_norms else None,
        )
        options = AttentionOptions(float(module.scaling), self._window(module), self._cap(module))
        return Attention(module.layer_idx, qkv, output, heads, rotary, options)

    def _window(self, attention: Any) -> int | None:
        if self.family.window is Window.NONE:
            return None
        source = self.config if self.family.window is Window.MODEL else attention
        return cast("int | None", source.sliding_window)

    def _cap(self, attention: Any) -> float | None:
        capped = self.family.attention_softcap
        return cast("float | None", attention.attn_logit_softcapping) if capped else None

    def _norm(self, layer: nn.Module, name: str) -> RMSNorm:
        return read_norm(layer.get_submodule(name), self.family)

    def _optional_norm(self, layer: nn.Module, name: str | None) -> RMSNorm | None:
        return None if name is None else self._norm(layer, name)

    def _projection(self, layer: nn.Module, product: Product, number: int) -> Projection:
        members = [cast(nn.Linear, layer.get_submodule(name)) for name in product.members]
        biases = [member.bias for member in members if member.bias is not None]
        return Projection(
            index=number,
            weight=pack_parameters([member.weight for member in members]),
            bias=pack_parameters(biases) if biases else None,
        )
