"""Shrink beside the base product in a captured graph: the bits of one after the other.

    PYTHONPATH=kernels:. python -m tests.kernels.gpu_beside

A chain of six layers, each a product of the rows that the one before has left, so that a branch
that began too early or was joined too late shows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from loramux_kernels.branch import Branch
from loramux_kernels.products import linear
from loramux_kernels.triton_lora import DECODE, PREFILL, apply_lora_, begin_rank_vectors
from loramux_kernels.triton_lora.work_list import LoRAWork
from tests.kernels.lora_cases import Layer

WIDTH, LAYERS = 4096, 6


def chain(x: Tensor, weights: list[Tensor], layer: Layer, work: LoRAWork) -> Tensor:
    for weight, projection in zip(weights, layer.projections, strict=True):
        begin_rank_vectors(x, projection, work)
        y = linear(x, weight)
        apply_lora_(y, x, projection, work)
        x = y
    return x


def check(rows: int) -> None:
    torch.manual_seed(rows)
    ranks = [[16] * LAYERS, [1] * LAYERS, [61] * LAYERS, [8] * LAYERS]
    layer = Layer([(WIDTH, [WIDTH])] * LAYERS, ranks, torch.bfloat16, "cuda", page_elements=4096)
    weights = [torch.randn(WIDTH, WIDTH, device="cuda").bfloat16() / 64 for _ in range(LAYERS)]
    x = torch.randn(rows, WIDTH, device="cuda").bfloat16()
    segments = [(row % 4, [row]) for row in range(rows) if row % 5]
    for name, tiles in (("decode", DECODE), ("prefill", PREFILL)):
        alone, beside = layer.work(tiles, 64), layer.work(tiles, 64)
        beside.branch = Branch(x.device)
        for work in (alone, beside):
            work.fill(segments, rows)
        expected = chain(x, weights, layer, alone)
        chain(x, weights, layer, beside)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = chain(x, weights, layer, beside)
        for _ in range(50):
            beside.partials.fill_(float("nan"))
            graph.replay()
            assert torch.equal(out, expected), f"{rows} rows, {name}: other bits beside the product"
    print(f"{rows} rows: the same bits beside the product, 50 replays", flush=True)


if __name__ == "__main__":
    with torch.inference_mode():
        for rows in (1, 16, 64):
            check(rows)
