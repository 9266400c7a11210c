"""One layer of the fused decoder: plain tensors, and the order in which they act."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from loramux.models.fused.rotary import RotaryTable
from loramux.models.fused.step import FusedStep, StepLoRA
from loramux_kernels.blocks import (
    Activation,
    HeadLayout,
    RMSNorm,
    Rotation,
    add_rms_norm_,
    gated_activation,
    rms_norm,
)
from loramux_kernels.paged_attention import AttentionOptions, LayerCache


@dataclass(frozen=True, eq=False, slots=True)
class Projection:
    """A product of packed weights, ``[out_features, in_features]``, and its number for adapters."""

    index: int
    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor, lora: StepLoRA | None) -> Tensor:
        """``x W^T + b``, with what adapters add."""
        y = self.product(x)
        if lora is not None:
            lora.add_(self.index, y, x)
        return y

    def product(self, x: Tensor) -> Tensor:
        """``x W^T + b`` alone, for what adds the adapters' updates itself."""
        return functional.linear(x, self.weight, self.bias)


@dataclass(frozen=True, eq=False, slots=True)
class Attention:
    """Attention of one layer.

    Args:
        cache: key of the layer's cache in ``FusedStep.caches``.
    """

    cache: int
    qkv: Projection
    output: Projection
    heads: HeadLayout
    rotary: RotaryTable
    options: AttentionOptions

    def __call__(self, x: Tensor, step: FusedStep) -> Tensor:
        """Attend rows ``[rows, hidden_size]``, the same shape out."""
        cache = step.caches[self.cache]
        attended = step.attend(self._queries(x, cache, step), cache, self.options)
        return self.output(attended.flatten(1), step.lora)

    def _queries(self, x: Tensor, cache: LayerCache, step: FusedStep) -> Tensor:
        """Rotated queries; keys and values go to the cache."""
        cos, sin = self.rotary.cos, self.rotary.sin
        rotation = Rotation(step.positions, cos, sin, self.heads, cache, step.slots)
        qkv = self.qkv.product(x)
        if step.lora is None:
            return rotation(qkv)
        return step.lora.rotate_and_store_(self.qkv.index, qkv, x, rotation)


@dataclass(frozen=True, eq=False, slots=True)
class MLP:
    """The gated feed-forward part of one layer."""

    gate_up: Projection
    down: Projection
    activation: Activation

    def __call__(self, x: Tensor, lora: StepLoRA | None) -> Tensor:
        """Rows ``[rows, hidden_size]``, the same shape out."""
        return self.down(self._activated(x, lora), lora)

    def _activated(self, x: Tensor, lora: StepLoRA | None) -> Tensor:
        gate_up = self.gate_up.product(x)
        if lora is None:
            return gated_activation(gate_up, self.activation)
        return lora.activate(self.gate_up.index, gate_up, x, self.activation)


@dataclass(frozen=True, eq=False, slots=True)
class FusedLayer:
    """One layer, from what its first norm returns to what the next norm adds to the residual.

    Args:
        input_norm: applied by the decoder, in one kernel with the residual sum of the layer before.
    """

    input_norm: RMSNorm
    attention: Attention
    after_attention: RMSNorm | None
    before_mlp: RMSNorm
    mlp: MLP
    after_mlp: RMSNorm | None

    def __call__(self, x: Tensor, residual: Tensor, step: FusedStep) -> Tensor:
        """Return what is to be added to the residual, which has attention added in place.

        Shapes:
            x, residual, returns: ``[rows, hidden_size]``.
        """
        x = self.attention(x, step)
        if self.after_attention is not None:
            x = rms_norm(x, self.after_attention)
        x = self.mlp(add_rms_norm_(x, residual, self.before_mlp), step.lora)
        return x if self.after_mlp is None else rms_norm(x, self.after_mlp)
