"""Decoder layers of kernels and products in a row, where each kernel begins while another ends."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from loramux_kernels.blocks import HeadLayout, RMSNorm
from loramux_kernels.paged_attention import AttentionOptions, LayerCache

BLOCK_SIZE = 16


@dataclass(frozen=True)
class Shape:
    """Of a model; tests under the interpreter have a small one."""

    layers: int = 6
    heads: int = 32
    kv_heads: int = 8
    dim: int = 128
    intermediate: int = 14336

    @property
    def hidden(self) -> int:
        return self.heads * self.dim


class Layers:
    """Random layers over random caches, for sequences of the given lengths with one new token."""

    def __init__(self, shape: Shape, lengths: list[int], dtype: torch.dtype, device: str) -> None:
        from loramux_kernels.triton_attention import Metadata

        torch.manual_seed(0)
        self.shape, self._dtype, self._device = shape, dtype, device
        counts = [-(-length // BLOCK_SIZE) for length in lengths]
        order = iter(torch.randperm(sum(counts)).tolist())
        blocks = [[next(order) for _ in range(count)] for count in counts]
        last = [ids[-1] * BLOCK_SIZE + (n - 1) % BLOCK_SIZE if n else -1
                for ids, n in zip(blocks, lengths, strict=True)]  # fmt: skip
        self.slots = torch.tensor(last, device=device)
        self.positions = torch.tensor([max(0, n - 1) for n in lengths], device=device)
        ones = [1] * len(lengths)
        self.metadata = Metadata.build(self.slots, blocks, lengths, ones, BLOCK_SIZE)
        self.layout = HeadLayout(shape.heads, shape.kv_heads, shape.dim, shape.dim, None, None)
        cache = (sum(counts), BLOCK_SIZE, shape.kv_heads, shape.dim)
        self.caches = [
            LayerCache(self._random(*cache), self._random(*cache)) for _ in range(shape.layers)
        ]
        angles = torch.outer(torch.arange(max(lengths)), 0.5 ** torch.arange(shape.dim // 2))
        angles = torch.cat([angles, angles], dim=1).to(device)
        self.cos, self.sin = angles.cos(), angles.sin()
        self.norm = RMSNorm(self._random(shape.hidden), 1e-5)
        self.qkv = self._weight(shape.hidden, self.layout.row_width)
        self.output = self._weight(shape.hidden, shape.hidden)
        self.gate_up = self._weight(shape.hidden, 2 * shape.intermediate)
        self.down = self._weight(shape.intermediate, shape.hidden)
        self.x = self._random(len(lengths), shape.hidden)

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, device=self._device).to(self._dtype)

    def _weight(self, rows: int, columns: int) -> Tensor:
        return (torch.randn(rows, columns, device=self._device) / rows**0.5).to(self._dtype)

    def run(self, synchronize: bool) -> Tensor:
        """All layers; ``synchronize`` lets no kernel begin before all others have ended."""
        from loramux_kernels.triton_attention import triton_paged_attention
        from loramux_kernels.triton_blocks import (
            add_rms_norm_,
            gated_activation,
            rms_norm,
            rotate_and_store_,
        )

        def done(tensor: Tensor) -> Tensor:
            if synchronize:
                torch.cuda.synchronize()
            return tensor

        metadata, residual = replace(self.metadata), self.x.clone()
        options = AttentionOptions(self.shape.dim**-0.5)
        x = done(rms_norm(residual, self.norm))
        for cache in self.caches:
            qkv = done(x @ self.qkv)
            place = (self.positions, self.cos, self.sin, self.layout, cache, self.slots)
            queries = done(rotate_and_store_(qkv, *place))
            attended = done(triton_paged_attention(queries, cache, metadata, options))
            x = done(attended.flatten(1) @ self.output)
            x = done(add_rms_norm_(x, residual, self.norm))
            x = done(gated_activation(done(x @ self.gate_up), "silu"))
            x = done(add_rms_norm_(done(x @ self.down), residual, self.norm))
        return x


def check_overlap(replays: int = 20) -> str:
    """A graph in which kernels overlap computes the bits of kernels one after another."""
    lengths = [*range(1, 60, 7), *range(200, 2000, 37), 0, 0, 9000]
    layers = Layers(Shape(), lengths, torch.bfloat16, "cuda")
    layers.run(synchronize=False)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = layers.run(synchronize=False)
    different = 0
    for _ in range(replays):
        layers.x.normal_()
        graph.replay()
        overlapped = out.clone()
        different += not torch.equal(overlapped, layers.run(synchronize=True))
    good = different == 0 and bool(out.isfinite().all())
    return f"{'ok' if good else 'WRONG'}  {different} of {replays} replays have other bits"
