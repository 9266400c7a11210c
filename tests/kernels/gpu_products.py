"""Products of few rows on a GPU: right, the same bits every time, and faster than cuBLAS's or not.

    PYTHONPATH=kernels:. python -m tests.kernels.gpu_products

Times are of a norm and a product in a replayed graph, microseconds, over weights that the cache
does not hold; ends with a status other than 0 if a check fails.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from loramux_kernels.blocks import RMSNorm, rms_norm
from loramux_kernels.products import linear
from loramux_kernels.triton_products import StreamTiles, stream_tiles, streamed_linear
from loramux_kernels.tuned.products import BY_ROWS
from tests.kernels.block_cases import Place
from tests.kernels.product_cases import check_product

PRODUCTS = {
    "qkv": (6144, 4096),
    "output": (4096, 4096),
    "gate_up": (28672, 4096),
    "down": (4096, 14336),
    "vocabulary": (128256, 4096),
}
"""Of Llama 3.1 8B: output and input features."""
CALLS = 24
COPY = 4.25e12


def check_all() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        place = Place(dtype, "cuda")
        for rows, shape in ((1, (4096, 4096)), (16, (6144, 1000)), (50, (4104, 2560))):
            check_product(place, rows, shape, has_bias=rows > 1)
    print("right in both dtypes, all tiles", flush=True)


def check_graph() -> None:
    """Twenty replays of products that overlap with norms have the bits of one after the other."""
    torch.manual_seed(0)
    place = Place(torch.bfloat16, "cuda")
    norm = place.norm(4096, plus_one=False)
    weights = [place.random(4096, 4096) * 0.02 for _ in range(6)]
    for rows in (1, 16, 64):
        start = place.random(rows, 4096)

        def chain(start: torch.Tensor = start) -> torch.Tensor:
            x = start
            for weight in weights:
                x = linear(rms_norm(x, norm), weight)
            return x

        expected = _synchronized(start, norm, weights)
        graph, out = captured(chain)
        for _ in range(20):
            graph.replay()
            assert torch.equal(out, expected), "a replay has other bits than separate calls"
    print("the same bits in 20 replays", flush=True)


def _synchronized(x: torch.Tensor, norm: RMSNorm, weights: list[torch.Tensor]) -> torch.Tensor:
    for weight in weights:
        x = rms_norm(x, norm)
        torch.cuda.synchronize()
        x = linear(x, weight)
        torch.cuda.synchronize()
    return x


def captured(run: Callable[[], torch.Tensor]) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()
    return graph, out


def microseconds(call: Callable[[int], torch.Tensor]) -> float:
    def run() -> torch.Tensor:
        for index in range(CALLS):
            out = call(index)
        return out

    graph, _ = captured(run)
    graph.replay()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(5):
        graph.replay()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / (5 * CALLS) * 1e3


def time_product(name: str, shape: tuple[int, int], rows: int) -> str:
    place = Place(torch.bfloat16, "cuda")
    x, norm = place.random(rows, shape[1]), place.norm(shape[1], plus_one=False)
    copies = max(2, min(8, int(2e9) // (2 * shape[0] * shape[1])))
    weights = [place.random(*shape) * 0.02 for _ in range(copies)]
    shipped = stream_tiles(x, weights[0])

    def timed(product: Callable[..., torch.Tensor], *tiles: StreamTiles) -> str:
        arguments = (None, *tiles) if tiles else ()
        took = microseconds(lambda i: product(rms_norm(x, norm), weights[i % copies], *arguments))
        return f"{took:6.1f}"

    line = f"{name:10} {rows:3} rows, bytes {shape[0] * shape[1] * 2 / COPY * 1e6:6.1f}: "
    line += f"cuBLAS {timed(functional.linear)}"
    for tiles in BY_ROWS[next(most for most in BY_ROWS if rows <= most)]:
        line += f" | {tiles.columns} columns {timed(streamed_linear, tiles)}"
        line += "*" * (tiles == shipped)
    return line


def time_products() -> None:
    for name, shape in PRODUCTS.items():
        for rows in (1, 16, 32, 64):
            print(time_product(name, shape, rows), flush=True)


if __name__ == "__main__":
    with torch.inference_mode():
        check_all()
        check_graph()
        time_products()
