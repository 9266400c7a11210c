"""Tiles of short steps with adapters that compete with those shipped, and what was predicted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from loramux_kernels.triton_lora import DECODE, PREFILL, LoRATiles
from loramux_kernels.tuned.lora import MIXED
from tests.kernels.fused_lora_timing import MAX_DECODE_ROWS, MIXES, WAYS, LlamaLayer

SIZES = {"decode": (64, 256), "mixed": (272, 528, 1024)}
"""Rows; of the mixed ones 16 are single tokens where they are no multiple of 512."""
CAPTIONS = {
    (64, "8 of 16"): "with 255 registers +34.3, predicted +34",
    (64, "32 of 16"): "with 255 registers +61.2, predicted +58",
    (256, "8 of 16"): "with 255 registers +44.5, predicted +42",
    (256, "32 of 16"): "with 255 registers +68.9, predicted +62",
    (272, "8 of 16"): "measured before +61.8",
    (528, "8 of 16"): "measured before +75.0",
    (1024, "8 of 16"): "measured before +101.9",
}


def shrinking(tiles: LoRATiles, **changes: Any) -> LoRATiles:
    return replace(tiles, shrink=replace(tiles.shrink, **changes))


def mixing(tiles: LoRATiles) -> LoRATiles:
    return replace(PREFILL, short=tiles)


TILES: dict[str, dict[str, LoRATiles]] = {
    "decode": {
        "6 programs": shrinking(DECODE, programs_per_sm=6),
        "256 features": shrinking(DECODE, features=256, stages=3),
        "splits of 256": shrinking(DECODE, split_features=256),
    },
    "mixed": {
        "as long steps": replace(PREFILL, short=None),
        "4 splits": mixing(shrinking(MIXED, split_features=1024, max_splits=4)),
        "walking": mixing(
            replace(MIXED, fused=replace(MIXED.fused, activation=PREFILL.fused.activation))
        ),
    },
}


def compile_layer(kind: str, name: str, index: int) -> None:
    """Run a layer once, in a process of its own, so that others find its kernels compiled."""
    layer = LlamaLayer()
    layer.take(SIZES[kind][-1])
    tiles = TILES[kind][name] if name else layer.tiles
    for way in WAYS if not name else WAYS[-1:]:
        work = layer.work(tiles, MIXES[index].max_rank)
        work.fill([], layer.rows)
        layer.run(way, work)
    assert layer.rows <= MAX_DECODE_ROWS or kind == "mixed"
    torch.cuda.synchronize()
