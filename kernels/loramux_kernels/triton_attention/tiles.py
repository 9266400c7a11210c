"""Sizes of tiles: what fits the registers and the shared memory of a Hopper multiprocessor."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import torch
import triton

from loramux_kernels.multiprocessors import num_multiprocessors


@dataclass(frozen=True)
class DecodeTiles:
    """Tokens per tile, and how finely the work of a batch is cut.

    ``programs_per_processor`` counts programs that read all there is to read. It is about twice
    what runs at once: half of it may come from sequences that stay whole (see ``plan_chunks``).
    ``min_tiles`` bounds the chunks from below.
    """

    keys: int = 64
    num_warps: int = 4
    num_stages: int = 3
    min_tiles: int = 2
    programs_per_processor: int = 6

    def goal(self, num_kv_heads: int, device: torch.device) -> int:
        """Chunks to aim at for all sequences of a batch together."""
        programs = self.programs_per_processor * num_multiprocessors(device)
        return max(1, programs // num_kv_heads)


@dataclass(frozen=True)
class PrefillTiles:
    """``rows`` are queries times query heads of a KV head, ``keys`` are tokens."""

    rows: int = 64
    keys: int = 64
    num_warps: int = 4
    num_stages: int = 3


@dataclass(frozen=True)
class Tiles:
    """Both, for one layer."""

    decode: DecodeTiles = field(default_factory=DecodeTiles)
    prefill: PrefillTiles = field(default_factory=PrefillTiles)


@lru_cache
def default_tiles(dim: int, itemsize: int, group: int) -> Tiles:
    """Tiles for heads of ``dim`` values of ``itemsize`` bytes, ``group`` of them to a KV head."""
    width = triton.next_power_of_2(dim)
    if itemsize == 4:
        return Tiles(DecodeTiles(keys=32), PrefillTiles(64, 32, num_warps=4, num_stages=2))
    if group > 32:
        keys = 64 if width <= 128 else 32
        return Tiles(DecodeTiles(keys, num_warps=8), PrefillTiles(128, keys, num_warps=8))
    if width > 128:
        return Tiles(DecodeTiles(keys=32), PrefillTiles(128, 64, num_warps=8, num_stages=2))
    return Tiles()
