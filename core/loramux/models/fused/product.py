"""Products of packed weights, whose adapters' updates are added by whatever reads the product."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from loramux.models.fused.step import StepLoRA
from loramux_kernels.blocks import Activation, RMSNorm, Rotation, add_rms_norm_, gated_activation
from loramux_kernels.products import linear


@dataclass(frozen=True, eq=False, slots=True)
class Product:
    """The result of one projection, to be read once.

    Args:
        y: ``[rows, out_features]``, without the updates of ``lora``.
        x: ``[rows, in_features]``, what it was computed from.
        index: number of the projection.
        lora: what is still to be added; None for nothing.
    """

    y: Tensor
    x: Tensor
    index: int
    lora: StepLoRA | None

    def updated(self) -> Tensor:
        """The product itself."""
        if self.lora is not None:
            self.lora.add_(self.index, self.y, self.x)
        return self.y

    def activated(self, kind: Activation) -> Tensor:
        """``gated_activation`` of it."""
        if self.lora is None:
            return gated_activation(self.y, kind)
        return self.lora.activate(self.index, self.y, self.x, kind)

    def rotated(self, rotation: Rotation) -> Tensor:
        """``rotate_and_store_`` of it: queries; keys and values go to the cache."""
        if self.lora is None:
            return rotation(self.y)
        return self.lora.rotate_and_store_(self.index, self.y, self.x, rotation)

    def normalized_sum(self, residual: Tensor, norm: RMSNorm) -> Tensor:
        """``add_rms_norm_`` of it: it goes to the residual, whose norm is returned."""
        if self.lora is None:
            return add_rms_norm_(self.y, residual, norm)
        return self.lora.add_rms_norm_(self.index, self.y, self.x, residual, norm)


@dataclass(frozen=True, eq=False, slots=True)
class Projection:
    """A product of packed weights, ``[out_features, in_features]``, and its number for adapters."""

    index: int
    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor, lora: StepLoRA | None) -> Product:
        """``x W^T + b``, and what adapters add."""
        if lora is not None:
            lora.begin(self.index, x)
        return Product(linear(x, self.weight, self.bias), x, self.index, lora)
