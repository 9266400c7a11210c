"""What adapters add to the products of a fused decoder, and to what is computed from them."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from loramux_kernels.blocks import (
    Activation,
    RMSNorm,
    Rotation,
    add_rms_norm_,
    gated_activation,
)


class ProductUpdates(Protocol):
    """Updates of packed products, alone or in one step with the block that reads the product.

    ``add_`` says it all: the other methods are the block after it, and whoever has a kernel that
    does both overrides them. They may leave the product itself without its update, so that nobody
    may read it afterwards, and rows beyond those of the step (padding of graphs) undefined.

    Shapes:
        y: ``[rows, out_features]`` of the sites side by side, base product and bias included.
        x: ``[rows, in_features]``, what the product was computed from.
    """

    def begin(self, projection: int, x: Tensor) -> None:
        """Told before the product of x is computed; may start on what needs no more than x."""

    def add_(self, projection: int, y: Tensor, x: Tensor) -> None:
        """Update the result of one product of ``FusedDecoder.projections``, in place."""

    def activate(self, projection: int, y: Tensor, x: Tensor, kind: Activation) -> Tensor:
        """``gated_activation`` of the updated product."""
        self.add_(projection, y, x)
        return gated_activation(y, kind)

    def rotate_and_store_(
        self, projection: int, y: Tensor, x: Tensor, rotation: Rotation
    ) -> Tensor:
        """``rotate_and_store_`` of the updated product."""
        self.add_(projection, y, x)
        return rotation(y)

    def add_rms_norm_(
        self, projection: int, y: Tensor, x: Tensor, residual: Tensor, norm: RMSNorm
    ) -> Tensor:
        """``add_rms_norm_`` of the updated product: it goes to the residual, in place."""
        self.add_(projection, y, x)
        return add_rms_norm_(y, residual, norm)
