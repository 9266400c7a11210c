"""Tiles of attention over the paged cache, by the widths of a layer's heads.

Measured on an H200. Another GPU takes the first that fit, of ever fewer stages, then keys, then
programs beside each other, then rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import product

from loramux_kernels.gpu import GPU
from loramux_kernels.tuned.attention_fit import MIN_TILE, AttentionFit
from loramux_kernels.tuned.attention_shapes import (
    DecodeTiles,
    PrefillTiles,
    Tiles,
    next_power_of_2,
)


def measured_tiles(width: int, itemsize: int, group: int) -> Tiles:
    """Those of an H200."""
    if itemsize == 4:
        decode = DecodeTiles(num_warps=4, num_stages=3, programs_per_processor=2)
        return Tiles(decode, PrefillTiles(64, 32, num_warps=4, num_stages=2))
    if group > 32:
        keys = 64 if width <= 128 else 32
        decode = DecodeTiles(keys, num_warps=8, num_stages=3, programs_per_processor=1)
        return Tiles(decode, PrefillTiles(128, keys, num_warps=8, programs_per_processor=1))
    if width > 128:
        decode = DecodeTiles(num_warps=4, num_stages=3, programs_per_processor=3)
        prefill = PrefillTiles(128, 64, num_warps=8, num_stages=2, programs_per_processor=1)
        return Tiles(decode, prefill)
    return Tiles(DecodeTiles(keys=64 if width <= 64 else 32))


@lru_cache
def attention_tiles(gpu: GPU, dim: int, itemsize: int, group: int) -> Tiles | None:
    """Tiles for heads of ``dim`` values of ``itemsize`` bytes, ``group`` of them to a KV head.

    None where not even the smallest fit.
    """
    heads = next_power_of_2(dim), itemsize, group
    measured, fit = measured_tiles(*heads), AttentionFit(gpu, *heads)
    decode = next(filter(fit.of_decode, _smaller_decode(measured.decode)), None)
    prefill = next(filter(fit.of_prefill, _smaller_prefill(measured.prefill)), None)
    return None if decode is None or prefill is None else Tiles(decode, prefill)


def _smaller_decode(tiles: DecodeTiles) -> Iterator[DecodeTiles]:
    """Those given, and smaller ones."""
    programs = range(tiles.programs_per_processor, 0, -1)
    for keys, count, stages in product(_halves(tiles.keys), programs, _stages(tiles.num_stages)):
        yield replace(tiles, keys=keys, num_stages=stages, programs_per_processor=count)


def _smaller_prefill(tiles: PrefillTiles) -> Iterator[PrefillTiles]:
    """Those given, and smaller ones."""
    programs = range(tiles.programs_per_processor, 0, -1)
    for rows, count, keys, stages in product(
        _halves(tiles.rows), programs, _halves(tiles.keys), _stages(tiles.num_stages)
    ):
        yield PrefillTiles(rows, keys, tiles.num_warps, stages, count)


def _halves(size: int) -> list[int]:
    return [size >> times for times in range(size.bit_length()) if size >> times >= MIN_TILE]


def _stages(most: int) -> range:
    """With fewer than two, nothing is loaded ahead."""
    return range(most, 1, -1)
