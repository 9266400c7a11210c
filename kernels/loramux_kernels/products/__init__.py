"""Matrix products with a model's weights."""

from loramux_kernels.products.dispatch import linear

__all__ = ["linear"]
