"""Rank vectors begun beside and ahead of the base product: the bits of those computed behind it.

    PYTHONPATH=kernels:. python -m tests.kernels.gpu_rank_vectors

A chain of six layers, each a product of the rows that the one before has left, so that a shrink
that began too early, or was waited for too late, shows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from loramux_kernels.branch import Branch
from loramux_kernels.products import linear
from loramux_kernels.triton_lora import DECODE, PREFILL, apply_lora_, begin_rank_vectors
from loramux_kernels.triton_lora.rank_vectors import AHEAD_ROWS, BESIDE_ROWS, order
from loramux_kernels.triton_lora.work_list import LoRAWork
from tests.kernels.lora_cases import Layer

WIDTH, LAYERS = 4096, 6


def chain(x: Tensor, weights: list[Tensor], layer: Layer, work: LoRAWork, begins: bool) -> Tensor:
    for weight, projection in zip(weights, layer.projections, strict=True):
        if begins:
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
        work = layer.work(tiles, rows)
        work.branch = Branch(x.device)
        work.fill(segments, rows)
        expected = chain(x, weights, layer, work, begins=False)
        chain(x, weights, layer, work, begins=True)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = chain(x, weights, layer, work, begins=True)
        for _ in range(50):
            work.partials.fill_(float("nan"))
            graph.replay()
            assert torch.equal(out, expected), (
                f"{rows} rows, {name}: other bits {order(work, rows)}"
            )
    print(f"{rows} rows: the same bits {order(work, rows)} the product, 50 replays", flush=True)


if __name__ == "__main__":
    with torch.inference_mode():
        for rows in (1, 16, BESIDE_ROWS, BESIDE_ROWS + 1, AHEAD_ROWS, 3000):
            check(rows)
