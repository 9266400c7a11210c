"""Blocks that add LoRA updates, on a GPU: right, base rows to the bit, and how long in a layer.

    PYTHONPATH=kernels:. python -m tests.kernels.gpu_lora_fused [prefill | decode | mixed]

Checks run side by side in processes that are forked before this one touches the GPU, and so does
what has to be compiled. Then it measures the kernels of long steps in tiles that compete, and one
layer of Llama 3.1 8B but for its attention, in replayed CUDA graphs: without
adapters, with shrink alone, with updates by kernels of their own, and with updates added by the
blocks; in brackets the throughput that is left. It ends with a status other than 0 if a check
failed.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from loramux_kernels.triton_lora import DECODE, PREFILL, LoRATiles, LoRAWork
from tests.kernels.block_cases import Attention, Place
from tests.kernels.fused_lora_cases import (
    Step,
    check_activation,
    check_norm,
    check_rotation,
    packed_widths,
)
from tests.kernels.fused_lora_timing import (
    ATTENTION,
    MIXES,
    WAYS,
    LlamaLayer,
    Mix,
    kernel_times,
)
from tests.kernels.lora_cases import Segments
from tests.kernels.prefill_lora_timing import CONTESTS, compile_tiles, contest
from tests.kernels.prefill_lora_timing import Step as PrefillStep
from tests.kernels.short_lora_timing import CAPTIONS, compile_layer
from tests.kernels.short_lora_timing import SIZES as SHORT_SIZES
from tests.kernels.short_lora_timing import TILES as SHORT_TILES

DEVICE = "cuda"
LONG = (8192, 2048)
PROMPT_RANKS = [1, 3, 8, 16, 17, 33, 64]
RANKS = {
    "decode": [*PROMPT_RANKS, 100, 255, 256],
    "mixed": PROMPT_RANKS,
    "prefill": PROMPT_RANKS,
}
NORMS = ((4096, 14336, False), (2304, 2048, True), (5120, 5120, False))
TILES = {"decode": DECODE, "mixed": PREFILL, "prefill": replace(PREFILL, short=None)}

Check = Callable[[], object]


def segments_of(tiles: LoRATiles, count: int) -> tuple[Segments, int]:
    """Rows of each of ``count`` adapters, and of the step, of which some have none."""
    each = 3 if tiles is DECODE else 75
    segments = [(slot, range(each * slot + 2, each * slot + each + 1)) for slot in range(count)]
    return segments, each * count + 40


def step(
    place: Place, tiles: LoRATiles, in_features: int, widths: list[int], ranks: list[int]
) -> Step:
    """Every third adapter leaves the first slice alone."""
    torch.manual_seed(sum(widths))
    spared = [slot % 3 == 2 and len(widths) > 1 for slot in range(len(ranks))]
    by_site = [
        [0 if spare else rank, *[rank] * (len(widths) - 1)]
        for rank, spare in zip(ranks, spared, strict=True)
    ]
    rows = segments_of(tiles, len(ranks))
    return Step(in_features, widths, by_site, *rows, tiles, place, padding=2)


def activation(place: Place, tiles: LoRATiles, width: int, ranks: list[int], kind: str) -> None:
    check_activation(step(place, tiles, 4096, [width, width], ranks), kind)


def rotation(
    place: Place, tiles: LoRATiles, attention: Attention, slices: int, ranks: list[int]
) -> None:
    widths = packed_widths(attention.layout(place))
    widths = widths if slices == 3 else [sum(widths)]
    check_rotation(step(place, tiles, 4096, widths, ranks), attention)


def norm(place: Place, tiles: LoRATiles, width: int, in_features: int, plus_one: bool) -> None:
    ranks = [1, 5, 16, 17, 33, 64]
    check_norm(step(place, tiles, in_features, [width], ranks), plus_one)


def checks(names: Sequence[str]) -> dict[str, Check]:
    """By name; in bfloat16 but for some."""
    place, half = Place(torch.bfloat16, DEVICE), Place(torch.float16, DEVICE)
    found: dict[str, Check] = {}
    for name in names:
        tiles, ranks = TILES[name], RANKS[name]
        found[f"{name}: silu of 14336"] = partial(activation, place, tiles, 14336, ranks, "silu")
        found[f"{name}: silu of 14336, rank 16"] = partial(
            activation, place, tiles, 14336, [16, 3, 16, 8], "silu"
        )
        found[f"{name}: gelu_tanh of 37"] = partial(
            activation, half, tiles, 37, [5] * 4, "gelu_tanh"
        )
        for attention, slices in (
            (ATTENTION, 3),
            (Attention(32, 8, 128, 128, norms=False), 3),
            (Attention(8, 4, 256, 256, norms=True), 3),
            (Attention(32, 32, 96, 72), 1),
        ):
            found[f"{name}: {attention}"] = partial(
                rotation, place, tiles, attention, slices, ranks
            )
        for width, in_features, plus_one in NORMS:
            found[f"{name}: norm of {width}"] = partial(
                norm, place, tiles, width, in_features, plus_one
            )
    found["graph"] = check_graph
    for kind in set(names) & set(SHORT_SIZES):
        mixes = MIXES if kind == "decode" else MIXES[:1]
        shipped = [("", index) for index, mix in enumerate(mixes) if mix.max_rank in {16, 256}]
        for name, index in [*shipped[::2], *((name, 0) for name in SHORT_TILES[kind])]:
            found[f"compile {kind} {name or index}"] = partial(compile_layer, kind, name, index)
    if "prefill" in names:
        for kernel, contest in CONTESTS.items():
            for name in contest.tiles:
                found[f"compile {kernel} {name}"] = partial(compile_tiles, kernel, name)
    return found


def check_graph() -> None:
    """A layer captured for nobody computes every mix as launches do, twice the same."""
    layer = LlamaLayer()
    for rows in (64, 1024):
        layer.take(rows)
        work = layer.works[16]
        work.fill([], rows)
        graph, captured = capture(partial(layer.run, WAYS[-1], work))
        for segments in ([], [(3, range(5, rows))], MIXES[0].segments(rows)):
            work.fill(segments, rows)
            check_replays(layer, work, graph, captured)


def capture(call: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call()
    return graph, captured


def check_replays(
    layer: LlamaLayer, work: LoRAWork, graph: torch.cuda.CUDAGraph, captured: Tensor
) -> None:
    residual = layer.residual.clone()
    outcomes = []
    for is_replay in (True, True, False):
        layer.residual.copy_(residual)
        if is_replay:
            graph.replay()
        out = captured if is_replay else layer.run(WAYS[-1], work)
        outcomes.append((out.clone(), layer.residual.clone()))
    for one, other in pairwise(outcomes):
        assert torch.equal(one[0], other[0]), "a replay has other bits than a call"
        assert torch.equal(one[1], other[1]), "a replay has other sums than a call"


def outcome(name: str) -> str:
    """A line about one check."""
    try:
        checks(list(TILES))[name]()
    except Exception:
        return f"WRONG  {name}\n{traceback.format_exc()}"
    return f"ok     {name}"


def print_layer(
    layer: LlamaLayer, rows: int, mixes: Sequence[Mix], others: Mapping[str, LoRATiles]
) -> None:
    layer.take(rows)
    copies, repeats = (4, 25) if rows <= 1040 else (1, 9)
    for mix in mixes:
        competing = others if mix.max_rank == 16 else {}
        base, more = layer.compare(mix, copies, repeats, competing)
        cells = [f"{name} +{m:.1f} ({base / (base + m):.3f})" for name, m in more.items()]
        caption = CAPTIONS.get((rows, mix.name), "")
        print(f"{rows} rows, base {base:.1f}, {mix.name} ({caption}):", flush=True)
        print("    " + "  ".join(cells), flush=True)


def print_kernels(layer: LlamaLayer, rows: int) -> None:
    layer.take(rows)
    cells = [f"{name} {spent:.1f}" for name, spent in kernel_times(layer, MIXES[0], 20, 9).items()]
    print(f"{rows} rows, blocks alone, in the cache: " + ", ".join(cells), flush=True)


def print_contests(rows: int) -> None:
    some = PrefillStep(rows, 8)
    for kernel in CONTESTS:
        for line in contest(some, kernel):
            print(line, flush=True)


def main(arguments: Sequence[str]) -> int:
    begin = time.perf_counter()
    names = list(arguments) or list(TILES)
    with multiprocessing.get_context("fork").Pool(min(14, os.cpu_count() or 1)) as pool:
        outcomes = []
        for line in pool.imap(outcome, checks(names), chunksize=1):
            print(line, flush=True)
            outcomes.append(line)
    print(f"checked after {time.perf_counter() - begin:.0f} s", flush=True)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    if "prefill" in names:
        print_contests(8192)
        print(f"after {time.perf_counter() - begin:.0f} s", flush=True)
    layer = LlamaLayer()
    for kind in names:
        for rows in SHORT_SIZES.get(kind, LONG):
            mixes = MIXES if (kind, rows) == ("decode", 256) else MIXES[:2]
            print_layer(layer, rows, mixes, SHORT_TILES.get(kind, {}))
    if "decode" in names:
        for rows in (64, 256):
            print_kernels(layer, rows)
    print(f"done after {time.perf_counter() - begin:.0f} s")
    return any(text.startswith("WRONG") for text in outcomes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
