"""Tiles of the LoRA kernels, by the kind of step.

Measured on an H200, with Llama 3.1 8B and rank 16. Another GPU may be short of shared memory for
shrink, the one kernel that loads ahead: there it takes fewer features at a time. How many stages it
has depends on ranks and slices too, and is worked out at each launch.
"""

from __future__ import annotations

from dataclasses import replace

from loramux_kernels.gpu import GPU
from loramux_kernels.tuned.lora_shapes import (
    MIN_STAGES,
    ActivationTiles,
    ExpandTiles,
    FusedTiles,
    LoRATiles,
    NormalizationTiles,
    RotationTiles,
    ShrinkTiles,
    WalkingActivation,
)

DECODE = LoRATiles(
    rows=16,
    rank=16,
    shrink=ShrinkTiles(
        slices=1, features=128, split_features=512, max_splits=16,
        warps=4, stages=4, programs_per_sm=4, max_registers=96,
    ),
    expand=ExpandTiles(rows=16, columns=256, rank=16, warps=4, stages=1, programs_per_sm=6),
    fused=FusedTiles(
        rows=16,
        rank=16,
        activation=ActivationTiles(
            columns=64, steps=4, warps=4, programs_per_sm=5, max_registers=96
        ),
        rotation=RotationTiles(heads=2, programs_per_sm=4, max_registers=128),
    ),
    overlap=True,
)  # fmt: skip
"""A few rows of each adapter: bound by the bytes of A and B."""

MIXED = LoRATiles(
    rows=32,
    rank=32,
    shrink=ShrinkTiles(
        slices=4, features=128, split_features=512, max_splits=8,
        warps=4, stages=4, programs_per_sm=2,
    ),
    expand=ExpandTiles(rows=16, columns=256, rank=16, warps=4, stages=1, programs_per_sm=6),
    fused=FusedTiles(
        rows=16,
        rank=16,
        max_rank=64,
        activation=ActivationTiles(
            columns=64, steps=4, warps=4, programs_per_sm=5, max_registers=96
        ),
        rotation=RotationTiles(heads=4, programs_per_sm=4, max_registers=128),
    ),
    dense=True,
    overlap=True,
)  # fmt: skip
"""A prompt beside other sequences' single tokens: too few rows to keep the GPU busy with large
tiles. Steps of up to 1024 rows may be captured, so that larger ones are never of this kind."""

PREFILL = LoRATiles(
    rows=64,
    rank=32,
    shrink=ShrinkTiles(
        slices=4, features=128, split_features=512, max_splits=4,
        warps=4, stages=6, programs_per_sm=1, whole_rows=5120,
    ),
    expand=ExpandTiles(rows=32, columns=256, rank=16, warps=4, stages=1, programs_per_sm=6),
    fused=FusedTiles(
        rows=16,
        rank=64,
        max_rank=64,
        activation=WalkingActivation(columns=128, warps=4, programs_per_sm=5, max_registers=96),
        rotation=RotationTiles(heads=16, programs_per_sm=4, max_registers=128),
        normalization=NormalizationTiles(rows=16, programs_per_sm=2, max_registers=128),
    ),
    dense=True,
    overlap=True,
    short=MIXED,
    short_rows=1024,
)  # fmt: skip
"""Many rows of each adapter: bound by the bytes of the layer's input and output."""


def fitting(tiles: LoRATiles, gpu: GPU, element_size: int) -> LoRATiles:
    """The same for a GPU that may have less shared memory, and for elements of so many bytes."""
    shrink, columns = tiles.shrink, tiles.shrink.slices * tiles.rank
    while MIN_STAGES * shrink.step_bytes(tiles.rows, columns, element_size) > gpu.program_bytes:
        shrink = replace(shrink, features=shrink.features // 2)
    short = None if tiles.short is None else fitting(tiles.short, gpu, element_size)
    return replace(tiles, shrink=shrink, short=short)
