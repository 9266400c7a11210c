"""Adapters of random weights for a few sites, and stores of arenas to place them in."""

from __future__ import annotations

from contextlib import closing

import torch
from torch import Tensor

from loramux.lora.device.arena_store import ArenaStore
from loramux.lora.device.resident import ResidentAdapter
from loramux.lora.device.staging import RECORD_BYTES, Staging
from loramux.lora.packed_weights import PackedWeights
from loramux.lora.read_process.pair_table import PairWriter, read_pairs
from loramux.lora.read_process.shared_memory import SharedFile, map_shared
from loramux.lora.site import LoRASite, SiteKind
from loramux.lora.weights import AdapterWeights, LowRankPair

SITES = {
    name: LoRASite(name, kind, in_features, out_features)
    for name, kind, in_features, out_features in [
        ("q", SiteKind.LINEAR, 24, 32),
        ("k", SiteKind.LINEAR, 24, 9),
        ("down", SiteKind.LINEAR, 43, 24),
        ("embed", SiteKind.EMBEDDING, 50, 24),
    ]
}


def make_store(
    num_elements: int, dtype: torch.dtype = torch.float32, slot_bytes: int = 4096, **options
) -> ArenaStore:
    """An arena full of NaN on the CPU, with a staging area too small for most adapters."""
    arena = torch.full((num_elements,), float("nan"), dtype=dtype)
    staging = Staging(arena, num_slots=4, slot_bytes=RECORD_BYTES + slot_bytes)
    return ArenaStore(list(SITES.values()), arena, staging=staging, **options)


def make_weights(
    digest: str,
    ranks: dict[str, int],
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    one_buffer: bool = True,
) -> AdapterWeights:
    """Random pairs, in one buffer as a file's tensors are or each in its own."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [
        shape
        for name, rank in ranks.items()
        for shape in [(rank, SITES[name].in_features), (SITES[name].out_features, rank)]
    ]
    sizes = [rows * columns for rows, columns in shapes]
    buffer = torch.randn(sum(sizes), generator=generator).to(dtype)
    matrices = [
        part.view(shape) if one_buffer else part.clone().view(shape)
        for part, shape in zip(buffer.split(sizes), shapes, strict=True)
    ]
    pairs = {
        name: LowRankPair(matrices[2 * index], matrices[2 * index + 1], 0.5 + index)
        for index, name in enumerate(ranks)
    }
    return AdapterWeights(digest, pairs)


def check_resident(resident: ResidentAdapter, weights: AdapterWeights, dtype: torch.dtype) -> None:
    """Every bit of the pairs is what a cast on the host gives."""
    assert list(resident.pairs) == list(weights.pairs)
    for name, pair in weights.pairs.items():
        placed = resident.pairs[name]
        assert placed.scaling == pair.scaling
        assert placed.rank == pair.rank
        assert _same(placed.a, pair.a.to(dtype).t())
        assert _same(placed.b, pair.b.to(dtype).t())
        assert placed.b.is_contiguous()


def _same(left: Tensor, right: Tensor) -> bool:
    return left.shape == right.shape and torch.equal(left.cpu(), right)


def pack(weights: AdapterWeights) -> PackedWeights:
    """The same adapter as it comes from a reading process."""
    with closing(SharedFile()) as file:
        sites = list(SITES.values())
        writer = PairWriter(file, {site.name: index for index, site in enumerate(sites)})
        start = writer.write(weights.pairs)
        content = map_shared(file.descriptor, file.num_bytes)
    return PackedWeights(weights.digest, read_pairs(content, start, len(weights.pairs), sites))
