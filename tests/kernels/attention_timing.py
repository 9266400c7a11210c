"""How long attention takes on a GPU, replayed as a CUDA graph over more than its cache holds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from unittest.mock import patch

import torch
from torch import Tensor

from loramux_kernels.paged_attention import AttentionOptions, LayerCache
from loramux_kernels.triton_attention import (
    DecodeTiles,
    Metadata,
    Tiles,
    triton_paged_attention,
    write_kv,
)

DEVICE = "cuda"
BLOCK_SIZE = 16
CACHE_BYTES = 300e6
"""Read in one replay at least: five times the L2 cache."""


@dataclass(frozen=True)
class Layer:
    """Attention of one layer of a model."""

    heads: int = 32
    kv_heads: int = 8
    dim: int = 128
    window: int | None = None
    softcap: float | None = None
    sinks: bool = False

    def options(self) -> AttentionOptions:
        sinks = torch.randn(self.heads, device=DEVICE) if self.sinks else None
        return AttentionOptions(self.dim**-0.5, self.window, self.softcap, sinks)

    def visible_pairs(self, shapes: Shapes) -> int:
        """Pairs of a query and a key that it may see."""
        window = self.window or 2**31
        return sum(min(position + 1, window) for n, new in shapes for position in range(n - new, n))


Shapes = tuple[tuple[int, int], ...]
LLAMA = Layer()
OTHER_LAYERS = {
    "Mistral, window 4096": Layer(window=4096),
    "Qwen2 7B, 28/4 heads": Layer(28, 4),
    "Phi-3 mini, 32/32, 96": Layer(32, 32, 96),
    "Gemma 2, dim 256, cap": Layer(16, 8, 256, softcap=50.0),
    "the same, window 1024": Layer(16, 8, 256, window=1024, softcap=50.0),
    "gpt-oss, dim 64, sinks": Layer(64, 8, 64, sinks=True),
    "the same, window 128": Layer(64, 8, 64, window=128, sinks=True),
}
OTHER_TILES: dict[int, list[Tiles | None]] = {
    256: [None, Tiles(DecodeTiles(num_stages=4, programs_per_processor=2))],
    128: [None, Tiles(DecodeTiles(64, 4, 3, 3))],
    96: [None, Tiles(DecodeTiles(64, 4, 3, 3))],
    64: [None, Tiles(DecodeTiles(64, 4, 3, 4))],
}
"""By width of a head; none are the tiles that are shipped."""
DECODE_SHAPES: dict[str, Shapes] = {
    "16 x 600": ((600, 1),) * 16,
    "64 x 560": ((560, 1),) * 64,
    "256 x 560": ((560, 1),) * 256,
    "64 x 2048": ((2048, 1),) * 64,
    "64 x 8192": ((8192, 1),) * 64,
    "1 x 32768": ((32768, 1),),
    "64 of 200 to 1000": tuple((200 + 37 * i % 800, 1) for i in range(64)),
    "64 of 100 to 6400": tuple((100 * (i + 1), 1) for i in range(64)),
    "63 x 512, 1 x 65536": (*((512, 1),) * 63, (65536, 1)),
    "16 of 300 to 900": tuple((300 + 37 * i % 600, 1) for i in range(16)),
    "40 x 560": ((560, 1),) * 40,
    "96 x 560": ((560, 1),) * 96,
    "1 x 600": ((600, 1),),
}
BEFORE_AND_PREDICTED: dict[str, tuple[float | None, float]] = {
    "16 x 600": (21.6, 14.5),
    "64 x 560": (43.9, 38),
    "256 x 560": (145.7, 143),
    "64 x 2048": (138.8, 129),
    "64 x 8192": (563.9, 491),
    "1 x 32768": (48.0, 41),
    "64 of 200 to 1000": (51.6, 42),
    "64 of 100 to 6400": (218.5, 206),
    "63 x 512, 1 x 65536": (117.5, 100),
    "16 of 300 to 900": (None, 15.5),
    "40 x 560": (None, 25.5),
    "96 x 560": (None, 56),
    "1 x 600": (None, 6),
}
"""Microseconds: measured of version 3, and predicted of the tiles that are shipped."""
DECODE_TILES = {
    "32 w2 s4 4/SM": Tiles(),
    "no overlap": Tiles(),
    "3/SM": Tiles(DecodeTiles(programs_per_processor=3)),
    "64 w4 s3 3/SM": Tiles(DecodeTiles(64, 4, 3, 3)),
}
PREFILL_SHAPES: dict[str, Shapes] = {
    "1 x 8192": ((8192, 8192),),
    "1 x 512": ((512, 512),),
    "63 decodes, 1 x 512": (*((1024, 1),) * 63, (512, 512)),
}
PREFILL_TILES = {"64x64 w4 s3": Tiles()}


@contextmanager
def no_overlap() -> Iterator[None]:
    """Within it, kernels are launched such that each begins when the one before has ended."""
    with ExitStack() as stack:
        for module in ("attention", "metadata"):
            name = f"loramux_kernels.triton_attention.{module}.overlapping"
            stack.enter_context(patch(name, lambda device: {"OVERLAP": False}))
        yield


def replay_seconds(body: Callable[[], object], replays: int = 9) -> float:
    """Median time of a replay of ``body``, captured."""
    body()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        body()
    times = []
    for _ in range(replays + 2):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times[2:])


@dataclass
class Workload:
    """A batch, and caches enough that no layer finds its own in the GPU's cache."""

    query: Tensor
    caches: list[LayerCache]
    metadata: Metadata
    options: AttentionOptions

    def layer_seconds(self, tiles: Tiles | None, num_layers: int = 8) -> float:
        """Time of one layer out of ``num_layers``, its share of the planning included."""
        out = torch.empty_like(self.query)

        def body() -> None:
            metadata = replace(self.metadata)
            for index in range(num_layers):
                cache = self.caches[index % len(self.caches)]
                triton_paged_attention(
                    self.query, cache, metadata, self.options, out=out, tiles=tiles
                )

        return replay_seconds(body) / num_layers


@lru_cache(maxsize=1)
def workload(layer: Layer, shapes: Shapes) -> Workload:
    """Random values in shuffled blocks."""
    counts = [-(-length // BLOCK_SIZE) for length, _ in shapes]
    order = torch.randperm(sum(counts)).split(counts)
    shape = (sum(counts), BLOCK_SIZE, layer.kv_heads, layer.dim)
    copies = min(16, int(CACHE_BYTES // (4 * torch.Size(shape).numel())) + 1)
    caches = [LayerCache(_random(*shape), _random(*shape)) for _ in range(copies)]
    rows = sum(new for _, new in shapes)
    metadata = Metadata.build(
        torch.full((rows,), -1, device=DEVICE),
        [blocks.tolist() for blocks in order],
        [length for length, _ in shapes],
        [new for _, new in shapes],
        BLOCK_SIZE,
    )
    return Workload(_random(rows, layer.heads, layer.dim), caches, metadata, layer.options())


def decode_figures(layer: Layer, shapes: Shapes, tiles: Tiles | None) -> tuple[float, float]:
    """Seconds, and bytes of keys and values that are visible a second."""
    seconds = workload(layer, shapes).layer_seconds(tiles)
    visible = sum(min(length, layer.window or length) for length, _ in shapes)
    return seconds, visible * layer.kv_heads * layer.dim * 4 / seconds


def prefill_figures(layer: Layer, shapes: Shapes, tiles: Tiles | None) -> tuple[float, float]:
    """Seconds, and operations on visible pairs a second."""
    seconds = workload(layer, shapes).layer_seconds(tiles, num_layers=2)
    return seconds, layer.visible_pairs(shapes) * layer.heads * layer.dim * 4 / seconds


def copy_bandwidth() -> float:
    """Bytes read and written a second by a large copy; a graph would copy more slowly."""
    source = torch.empty(2**31, dtype=torch.uint8, device=DEVICE).random_()
    target = torch.empty_like(source)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    target.copy_(source)
    begin.record()
    for _ in range(8):
        target.copy_(source)
    end.record()
    torch.cuda.synchronize()
    return 8 * 2 * source.numel() / (begin.elapsed_time(end) / 1e3)


def matmul_rate() -> float:
    """Operations a second of a large product in bfloat16."""
    a, b = _random(8192, 8192), _random(8192, 8192)
    out = torch.empty_like(a)
    return 2 * 8192**3 / replay_seconds(lambda: torch.mm(a, b, out=out))


def small_parts() -> list[str]:
    """Kernels beside the attention itself, in microseconds of a replayed graph."""
    decodes = workload(LLAMA, DECODE_SHAPES["256 x 560"])
    plan = partial(_plan, decodes.metadata)
    lines = [f"plan of 256 sequences {_eighth(plan) * 1e6:.1f}"]
    for rows in (64, 8192):
        new, slots = _random(rows, 8, 128), torch.randperm(rows, device=DEVICE)
        store = partial(write_kv, decodes.caches[0], slots, new, new)
        lines.append(f"storing {rows} rows {_eighth(store) * 1e6:.1f}")
    return lines


def _plan(metadata: Metadata) -> None:
    replace(metadata).chunk_plan(8, None, DecodeTiles())


def _eighth(call: Callable[[], object]) -> float:
    """Seconds of one call out of eight in a graph."""
    return replay_seconds(lambda: [call() for _ in range(8)]) / 8


def python_costs() -> list[str]:
    """Microseconds of Python a call, outside graphs, while the GPU has less to do."""
    decodes = workload(LLAMA, ((20, 1),) * 64)
    prefill = Workload(_random(8, 32, 128), decodes.caches, _metadata_of_one(), decodes.options)
    new = _random(64, 8, 128)
    calls = {
        "decode (1 launch)": lambda: _attend(decodes),
        "prefill (1 launch)": lambda: _attend(prefill),
        "store": lambda: write_kv(decodes.caches[0], decodes.metadata.slots, new, new),
        "metadata of 64 x 128 blocks": lambda: Metadata.build(
            decodes.metadata.slots, [list(range(128))] * 64, [2048] * 64, [1] * 64, BLOCK_SIZE
        ),
    }
    return [f"{name} {_host_seconds(call) * 1e6:.0f}" for name, call in calls.items()]


def _attend(work: Workload) -> None:
    triton_paged_attention(work.query, work.caches[0], work.metadata, work.options)


def _metadata_of_one() -> Metadata:
    slots = torch.full((8,), -1, device=DEVICE)
    return Metadata.build(slots, [[0]], [8], [8], BLOCK_SIZE)


def _host_seconds(call: Callable[[], object], count: int = 100) -> float:
    call()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(count):
        call()
    seconds = time.perf_counter() - begin
    torch.cuda.synchronize()
    return seconds / count


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.bfloat16, device=DEVICE)


def shortened(shapes: Shapes, longest: int = 40) -> Shapes:
    """As many sequences, but short: the same kernels for little work."""
    return tuple((min(length, longest), min(new, longest)) for length, new in shapes)


def warm(layer: Layer, shapes: Sequence[Shapes], tiles: Tiles | None) -> None:
    """Compile what measurements of these shapes will launch."""
    for each in shapes:
        workload(layer, shortened(each)).layer_seconds(tiles, num_layers=1)
