"""Adapters that stand on the device already, for tests of what is done with them there."""

from __future__ import annotations

from pathlib import Path

import torch

from loramux.lora.adapter import Adapter
from loramux.lora.device.resident import ResidentAdapter, ResidentPair
from loramux.lora.fetch.origin import LocalCheckpoint, SourceRevision
from loramux.lora.site import LoRASite, SiteKind

SITES = {
    name: LoRASite(name, SiteKind.LINEAR, in_features, out_features)
    for name, in_features, out_features in [("up", 6, 9), ("down", 9, 6), ("side", 4, 4)]
}
CPU = torch.device("cpu")


def make_adapter(digest: str, rank: int = 4) -> Adapter:
    source = LocalCheckpoint(Path("/adapters") / digest, SourceRevision(()))
    return Adapter(digest, source, rank, num_bytes=0, num_elements=0)


def make_resident(digest: str, ranks: dict[str, int]) -> ResidentAdapter:
    """A random adapter with these ranks at these sites."""
    pairs = {}
    for name, rank in ranks.items():
        a = torch.randn(SITES[name].in_features, rank)
        b = torch.randn(rank, SITES[name].out_features)
        pairs[name] = ResidentPair(a, b, 0.5 + torch.rand(()).item())
    return ResidentAdapter(make_adapter(digest, max(ranks.values())), pairs)
