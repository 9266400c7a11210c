"""Blocks on a GPU: right in every dtype, and how near to the bytes that they must move.

    PYTHONPATH=kernels:. python -m tests.kernels.gpu_blocks

Checks run side by side in processes that are forked before this one touches the GPU. Then it
measures, in replayed CUDA graphs, and ends with a status other than 0 if a check failed.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from unittest.mock import patch

import torch

from loramux_kernels.blocks import (
    HeadLayout,
    RMSNorm,
    add_rms_norm_,
    gated_activation,
    rms_norm,
    rotate_and_store_,
)
from loramux_kernels.paged_attention import LayerCache
from tests.kernels.block_cases import (
    Attention,
    Place,
    check_activation,
    check_norm,
    check_rotation,
    rotary_table,
)

DEVICE = "cuda"
COPY = 4.25e12
"""Bytes a second that an H200 reads and writes in a copy."""
ROWS = (1, 16, 64, 256, 512, 2048, 8192)
VARIANT_ROWS = (1, 64, 8192)
CALLS = 64
SLOTS = [*range(300), -1, -1, 700]
LLAMA = Attention(32, 8, 128, 128)
HIDDEN, INTERMEDIATE = 4096, 14336

Check = Callable[[], object]


def checks() -> dict[str, Check]:
    """By name; many rows, so that programs run at the same time."""
    found: dict[str, Check] = {}
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        place, name = Place(dtype, DEVICE), str(dtype).removeprefix("torch.")
        for width, plus_one in ((4096, False), (2304, True), (5120, False), (96, True)):
            found[f"{name}: norms of {width}"] = partial(check_norm, place, 200, width, plus_one)
        for attention in (
            LLAMA,
            Attention(32, 8, 128, 128, norms=False),
            Attention(8, 4, 256, 256, norms=True),
            Attention(32, 32, 80, 32),
            Attention(12, 3, 96, 96, norms=True),
        ):
            found[f"{name}: {attention}"] = partial(check_rotation, place, attention, SLOTS)
        for kind, width in (("silu", 14336), ("gelu", 37), ("gelu_tanh", 9216)):
            found[f"{name}: {kind} of {width}"] = partial(check_activation, place, 200, width, kind)
    found["graph"] = check_graph
    return found


def check_graph() -> None:
    """A captured layer, replayed for other rows, computes what it does outside of a graph."""
    layer = Layer.of(64)
    layer.all_blocks()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = layer.all_blocks()
    for seed in range(3):
        torch.manual_seed(seed)
        layer.fill()
        residual, keys = layer.residual.clone(), layer.cache.keys.clone()
        graph.replay()
        replayed = [out.clone() for out in (*captured, layer.residual, layer.cache.keys)]
        layer.residual.copy_(residual)
        layer.cache.keys.copy_(keys)
        again = (*layer.all_blocks(), layer.residual, layer.cache.keys)
        for one, other in zip(replayed, again, strict=True):
            assert torch.equal(one, other), "a replay has other bits than a call"


def outcome(name: str) -> str:
    """A line about one check."""
    try:
        checks()[name]()
    except Exception:
        return f"WRONG  {name}\n{traceback.format_exc()}"
    return f"ok     {name}"


@dataclass
class Layer:
    """What the blocks of one layer of Llama 3.1 8B work on."""

    x: torch.Tensor
    residual: torch.Tensor
    norm: RMSNorm
    qkv: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    table: tuple[torch.Tensor, torch.Tensor]
    layout: HeadLayout
    cache: LayerCache
    gate_up: torch.Tensor

    @classmethod
    def of(cls, rows: int, attention: Attention = LLAMA) -> Layer:
        place = Place(torch.bfloat16, DEVICE)
        layout = attention.layout(place)
        blocks = (rows // 16 + 2, 16, layout.num_kv_heads, layout.head_dim)
        layer = cls(
            x=place.random(rows, HIDDEN),
            residual=place.random(rows, HIDDEN),
            norm=place.norm(HIDDEN, plus_one=False),
            qkv=place.random(rows, layout.row_width),
            positions=torch.empty(rows, dtype=torch.long, device=DEVICE),
            slots=torch.empty(rows, dtype=torch.long, device=DEVICE),
            table=rotary_table(8192, layout.rotary_dim, DEVICE),
            layout=layout,
            cache=LayerCache(place.random(*blocks), place.random(*blocks)),
            gate_up=place.random(rows, 2 * INTERMEDIATE),
        )
        layer.fill()
        return layer

    def fill(self) -> None:
        """Other rows in other places; every ninth row is padding."""
        for tensor in (self.x, self.residual, self.qkv, self.gate_up):
            tensor.normal_()
        rows = len(self.slots)
        self.positions.random_(0, 8192)
        self.slots.copy_(torch.randperm(rows + 16, device=DEVICE)[:rows])
        self.slots[8::9] = -1

    def rms_norm(self) -> torch.Tensor:
        return rms_norm(self.x, self.norm)

    def add_rms_norm(self) -> torch.Tensor:
        return add_rms_norm_(self.x, self.residual, self.norm)

    def rotate(self) -> torch.Tensor:
        arguments = (self.positions, *self.table, self.layout, self.cache, self.slots)
        return rotate_and_store_(self.qkv, *arguments)

    def activate(self) -> torch.Tensor:
        return gated_activation(self.gate_up, "silu")

    def all_blocks(self) -> tuple[torch.Tensor, ...]:
        return self.rms_norm(), self.add_rms_norm(), self.rotate(), self.activate()


BLOCKS: dict[str, tuple[Callable[[Layer], torch.Tensor], Attention, int]] = {
    "rms_norm": (Layer.rms_norm, LLAMA, 4 * HIDDEN),
    "add_rms_norm_": (Layer.add_rms_norm, LLAMA, 8 * HIDDEN),
    "rotate_and_store_": (Layer.rotate, LLAMA, 4 * 6144),
    "the same, Qwen 3": (Layer.rotate, Attention(32, 8, 128, 128, norms=False), 4 * 6144),
    "gated_activation": (Layer.activate, LLAMA, 6 * INTERMEDIATE),
}
"""A call, its layer, and the bytes a row must move."""

VARIANTS: dict[str, tuple[tuple[str, ...], dict[str, int]]] = {
    "normalization": (("rms_norm", "add_rms_norm_"), {"VALUES_PER_THREAD": 8}),
    "rotation": (("rotate_and_store_", "the same, Qwen 3"), {"HEADS_PER_PROGRAM": 8}),
    "activation": (("gated_activation",), {"COLUMNS": 2048, "NUM_WARPS": 8}),
}
"""By module: the blocks it changes, and constants that are not those shipped."""


def seconds(name: str, rows: int) -> float:
    """One call among others in a graph; what many rows read, the GPU's cache does not hold."""
    call, attention, row_bytes = BLOCKS[name]
    count = max(1, min(16, 2**28 // (rows * row_bytes)))
    layers = [Layer.of(rows, attention) for _ in range(count)]
    call(layers[0])
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for index in range(CALLS):
            call(layers[index % count])
    times = [_replay(graph) for _ in range(7)]
    return sorted(times)[2] / CALLS


def _replay(graph: torch.cuda.CUDAGraph) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    graph.replay()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3


def line(name: str, rows: tuple[int, ...]) -> str:
    cells = []
    for count in rows:
        measured, bound = seconds(name, count), count * BLOCKS[name][2] / COPY
        cells.append(f"{measured * 1e6:7.2f} ({bound * 1e6:6.2f})")
    return f"{name:20}" + " ".join(cells)


def print_variants() -> None:
    for module, (names, constants) in VARIANTS.items():
        with ExitStack() as stack:
            for constant, value in constants.items():
                target = f"loramux_kernels.triton_blocks.{module}.{constant}"
                stack.enter_context(patch(target, value))
            print(f"with {constants}, rows {VARIANT_ROWS}")
            for name in names:
                print(line(name, VARIANT_ROWS), flush=True)


def python_microseconds(name: str) -> float:
    """Python of one call outside a graph, while the GPU has less to do."""
    call, attention, _ = BLOCKS[name]
    layer = Layer.of(1, attention)
    call(layer)
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(100):
        call(layer)
    spent = time.perf_counter() - begin
    torch.cuda.synchronize()
    return spent * 1e4


def main() -> int:
    begin = time.perf_counter()
    with multiprocessing.get_context("fork").Pool(min(12, os.cpu_count() or 1)) as pool:
        outcomes = pool.map(outcome, checks(), chunksize=1)
    print("\n".join(outcomes), f"\nchecked after {time.perf_counter() - begin:.0f} s", flush=True)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    print("microseconds of a call in a graph (of its bytes at 4.25 TB/s), rows", ROWS)
    for name in BLOCKS:
        print(line(name, ROWS), flush=True)
    print_variants()
    costs = [f"{name} {python_microseconds(name):.0f}" for name in BLOCKS]
    print("microseconds of Python a call:", ", ".join(costs))
    print(f"done after {time.perf_counter() - begin:.0f} s")
    return any(text.startswith("WRONG") for text in outcomes)


if __name__ == "__main__":
    sys.exit(main())
