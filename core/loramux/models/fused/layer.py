"""One layer of the fused decoder: plain tensors, and the order in which they act."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from loramux.models.fused.product import Product, Projection
from loramux.models.fused.rotary import RotaryTable
from loramux.models.fused.step import FusedStep, StepLoRA
from loramux_kernels.blocks import Activation, HeadLayout, RMSNorm, Rotation, rms_norm
from loramux_kernels.paged_attention import AttentionOptions


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

    def __call__(self, x: Tensor, step: FusedStep) -> Product:
        """Attend rows ``[rows, hidden_size]``, the same shape out."""
        cos, sin, cache = self.rotary.cos, self.rotary.sin, step.caches[self.cache]
        rotation = Rotation(step.positions, cos, sin, self.heads, cache, step.slots)
        queries = self.qkv(x, step.lora).rotated(rotation)
        attended = step.attend(queries, cache, self.options)
        return self.output(attended.flatten(1), step.lora)


@dataclass(frozen=True, eq=False, slots=True)
class MLP:
    """The gated feed-forward part of one layer."""

    gate_up: Projection
    down: Projection
    activation: Activation

    def __call__(self, x: Tensor, lora: StepLoRA | None) -> Product:
        """Rows ``[rows, hidden_size]``, the same shape out."""
        return self.down(self.gate_up(x, lora).activated(self.activation), lora)


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

    def __call__(self, x: Tensor, residual: Tensor, step: FusedStep) -> Product:
        """Return what is to be added to the residual, which has attention added in place.

        Shapes:
            x, residual, the product: ``[rows, hidden_size]``.
        """
        attended = _normalized(self.attention(x, step), self.after_attention)
        x = attended.normalized_sum(residual, self.before_mlp)
        return _normalized(self.mlp(x, step.lora), self.after_mlp)


def _normalized(product: Product, norm: RMSNorm | None) -> Product:
    """The norm that some families have behind a part."""
    if norm is None:
        return product
    return replace(product, y=rms_norm(product.updated(), norm), lora=None)
