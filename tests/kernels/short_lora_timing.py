"""Tiles of short steps with adapters that compete with those shipped, and what was predicted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from loramux_kernels.triton_lora import DECODE, PREFILL, LoRATiles
from loramux_kernels.triton_lora.tiles import MIXED, ActivationTiles, PairedNormalization
from tests.kernels.fused_lora_timing import MAX_DECODE_ROWS, MIXES, WAYS, LlamaLayer

SIZES = {"decode": (64, 128, 256), "mixed": (272, 528, 1024)}
"""Rows; of the mixed ones 16 are single tokens where they are no multiple of 512."""
CAPTIONS = {
    (64, "8 of 16"): "before +35.5, predicted +24",
    (64, "32 of 16"): "before +65, predicted +44",
    (256, "8 of 16"): "before +40, predicted +25",
    (256, "32 of 16"): "before +71, predicted +46",
    (256, "32 of 8-256"): "before about +510",
    (528, "8 of 16"): "512 rows alone before +88, predicted +45",
}


def decoding(**changes: Any) -> LoRATiles:
    return replace(DECODE, fused=replace(DECODE.fused, **changes))


def shrinking(tiles: LoRATiles, **changes: Any) -> LoRATiles:
    return replace(tiles, shrink=replace(tiles.shrink, **changes))


def mixing(tiles: LoRATiles) -> LoRATiles:
    return replace(PREFILL, short=tiles)


WIDE = ActivationTiles(columns=128, steps=1, warps=4, programs_per_sm=4, max_registers=128)
PAIRS = PairedNormalization(max_rank=64, programs_per_sm=2)
TILES: dict[str, dict[str, LoRATiles]] = {
    "decode": {
        "B not asked for": shrinking(DECODE, asks_for_b=False),
        "more splits": shrinking(DECODE, split_features=256),
        "activation 128 x 1": decoding(activation=WIDE),
        "norm by expand": decoding(normalization=None),
        "norm 4 rows of B": decoding(normalization=PairedNormalization(64, 1, 4, 168)),
    },
    "mixed": {
        "as long steps": replace(PREFILL, short=None),
        "4 splits": mixing(shrinking(MIXED, split_features=1024, max_splits=4)),
        "16 rows": mixing(replace(MIXED, rows=16)),
        "norm in pairs": mixing(replace(MIXED, fused=replace(MIXED.fused, normalization=PAIRS))),
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
