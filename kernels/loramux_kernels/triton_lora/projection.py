"""Projections that share one input, as the model computes them: packed in one product."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor


class PackedProjection:
    """One product of the base model whose output is the outputs of one or more sites in a row.

    Query, key and value are three slices, gate and up are two, most others are one.

    Args:
        first_site: column of the first slice in the adapter table; the others follow it.
        in_features: width of the input that all slices share.
        widths: output features of each slice, in order.
    """

    def __init__(
        self, first_site: int, in_features: int, widths: Sequence[int], device: torch.device
    ) -> None:
        self.first_site = first_site
        self.in_features = in_features
        self.widths = tuple(widths)
        self.starts = tuple(sum(self.widths[:index]) for index in range(len(self.widths)))
        self.unit = max(u for u in (1, 2, 4, 8, 16) if not any(width % u for width in self.widths))
        self._device = device

    @property
    def num_slices(self) -> int:
        return len(self.widths)

    @property
    def out_features(self) -> int:
        return sum(self.widths)

    def blocks(self, columns: int) -> Tensor:
        """Tiles of the output, each within one slice: int32 ``[num_blocks, 4]``.

        A row is the slice, the tile's number in it, and the slice's width and first column in
        units of ``unit``: a kernel multiplies by that constant and so knows how far addresses are
        aligned. Made at first use, which must not be while a graph is captured.
        """
        return _blocks(self.widths, self.starts, self.unit, columns, self._device)


@cache
def _blocks(
    widths: tuple[int, ...], starts: tuple[int, ...], unit: int, columns: int, device: torch.device
) -> Tensor:
    """Shared by the layers of a model, and by models."""
    rows = [
        (index, block, width // unit, start // unit)
        for index, (width, start) in enumerate(zip(widths, starts, strict=True))
        for block in range(-(-width // columns))
    ]
    return torch.tensor(rows, dtype=torch.int32, device=device)
