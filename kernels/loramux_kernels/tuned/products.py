"""How a product of few rows is cut, and when cuBLAS is asked instead.

Measured on an H200 with the products of Llama 3.1 8B; ``kernels/NOTES.md`` has the figures. Nothing
but those speaks for these tiles: GPUs of other generations have cuBLAS's products.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from loramux_kernels.gpu import HOPPER, gpu_of
from loramux_kernels.multiprocessors import num_multiprocessors

ALIGNMENT = 16
"""Bytes, of every row, for the hardware that copies tiles (TMA)."""
MIN_PROGRAMS = {16: 0.45, 32: 0.45, 64: 0.7}
"""A multiprocessor, by rows; with fewer programs too many would have nothing to read."""


@dataclass(frozen=True)
class StreamTiles:
    """What a program computes: all rows, for some columns of the result.

    Args:
        rows: those of the product, rounded up.
        columns: output features of a program.
        step: input features of one tile of weights.
        stages: tiles that are on their way at a time.
        fetch: bytes of each of its rows of weights that a program asks for before it waits for
            the kernel ahead.
        weights_first: multiply weights by rows instead of rows by weights. Hopper's tensor cores
            take 64 of whatever comes first.
    """

    rows: int
    columns: int
    step: int
    stages: int
    warps: int
    fetch: int
    weights_first: bool


BY_ROWS: dict[int, tuple[StreamTiles, ...]] = {
    16: (StreamTiles(16, 64, 256, 4, 4, fetch=512, weights_first=True),),
    32: (StreamTiles(32, 64, 256, 4, 4, fetch=512, weights_first=True),),
    64: (
        StreamTiles(64, 128, 128, 4, 4, fetch=1024, weights_first=False),
        StreamTiles(64, 64, 128, 5, 4, fetch=0, weights_first=False),
        StreamTiles(64, 32, 128, 6, 4, fetch=1024, weights_first=False),
    ),
}
"""For so many rows: the widest tiles that keep most multiprocessors reading. Of up to 32 rows 64
programs read as fast as 128, whose tiles are half as wide."""


def stream_tiles(x: Tensor, weight: Tensor) -> StreamTiles | None:
    """Tiles for a product, None where cuBLAS is to compute it.

    Shapes:
        x: ``[rows, in_features]``; weight: ``[out_features, in_features]``.
    """
    if not x.is_cuda or gpu_of(x.device).capability != HOPPER:
        return None
    is_narrow = x.dtype == weight.dtype and x.dtype in {torch.bfloat16, torch.float16}
    is_plain = x.is_contiguous() and weight.is_contiguous() and not weight.data_ptr() % ALIGNMENT
    is_aligned = not (x.shape[-1] * x.element_size()) % ALIGNMENT
    if not (x.dim() == 2 and is_narrow and is_plain and is_aligned):
        return None
    return choose_tiles(x.shape[0], weight.shape[0], num_multiprocessors(x.device))


def choose_tiles(rows: int, out_features: int, multiprocessors: int) -> StreamTiles | None:
    """The same from the numbers alone."""
    for most, choices in BY_ROWS.items():
        if 0 < rows <= most:
            for tiles in choices:
                if out_features // tiles.columns >= MIN_PROGRAMS[most] * multiprocessors:
                    return tiles
            return None
    return None
