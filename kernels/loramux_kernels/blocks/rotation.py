"""One rotation of a step, to be applied to whatever gives its packed rows."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from loramux_kernels.blocks.dispatch import rotate_and_store_
from loramux_kernels.blocks.layout import HeadLayout
from loramux_kernels.paged_attention import LayerCache


@dataclass(frozen=True, eq=False, slots=True)
class Rotation:
    """What ``rotate_and_store_`` takes but for the packed rows."""

    positions: Tensor
    cos: Tensor
    sin: Tensor
    layout: HeadLayout
    cache: LayerCache
    slots: Tensor

    def __call__(self, qkv: Tensor) -> Tensor:
        """Rotate and store; returns the queries."""
        return rotate_and_store_(
            qkv, self.positions, self.cos, self.sin, self.layout, self.cache, self.slots
        )
