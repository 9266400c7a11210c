"""Shapes of tiles that compete on a GPU; those that ship come first."""

from __future__ import annotations

from dataclasses import replace

from loramux_kernels.triton_lora import DECODE, PREFILL, LoRATiles


def decode_tiles(
    shrink: dict[str, int] | None = None, expand: dict[str, int] | None = None, overlap: bool = True
) -> LoRATiles:
    return replace(
        DECODE,
        shrink=replace(DECODE.shrink, **(shrink or {})),
        expand=replace(DECODE.expand, **(expand or {})),
        overlap=overlap,
    )


SMALL = (
    {"features": 128, "split_features": 256, "warps": 2, "stages": 3, "programs_per_sm": 8},
    {"columns": 128, "programs_per_sm": 8},
)
WIDE = (
    {"features": 512, "warps": 8, "stages": 2, "programs_per_sm": 3},
    {"columns": 512, "warps": 8, "programs_per_sm": 3},
)
TWO_PER_SM = ({"programs_per_sm": 2}, {"programs_per_sm": 2})
DECODE_CONFIGS: dict[str, tuple[LoRATiles, bool]] = {
    "shipped": (decode_tiles(), False),
    "no overlap": (decode_tiles(overlap=False), False),
    "fork": (decode_tiles(overlap=False), True),
    "small": (decode_tiles(*SMALL), False),
    "fork, overlap": (decode_tiles(), True),
    "wide": (decode_tiles(*WIDE), False),
    "2 per SM": (decode_tiles(*TWO_PER_SM), False),
}
"""Tiles, and whether shrink runs beside the product of the base model on a stream of its own."""

PREFILL_CONFIGS = {
    "shipped": PREFILL,
    "rank 16": replace(PREFILL, rank=16),
    "rank 64": replace(PREFILL, rank=64, shrink=replace(PREFILL.shrink, stages=3)),
    "narrow": replace(
        PREFILL, expand=replace(PREFILL.expand, columns=128, programs_per_sm=8), overlap=False
    ),
    "tall": replace(
        PREFILL,
        rows=128,
        shrink=replace(PREFILL.shrink, warps=8, max_splits=8),
        expand=replace(PREFILL.expand, rows=16, columns=512, warps=8, programs_per_sm=4),
    ),
}
