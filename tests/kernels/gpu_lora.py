"""LoRA kernels on a GPU: correct in bfloat16, and how long beside the products they update.

    PYTHONPATH=kernels:. python -m tests.kernels.gpu_lora

Times are of the seven projections of one Llama 3.1 8B layer, replayed as a CUDA graph; one graph
serves every mix of adapters. ``base`` is the layer without adapters, ``bound`` what the bytes of
the adapters, of their rows' inputs and of their outputs cost at the speed of a copy; in brackets
the throughput that is left. A process of its own does the work; it is started again behind a
job that took its GPU context down.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from loramux_kernels.triton_lora import DECODE, PREFILL, LoRATiles, LoRAWork
from tests.kernels.lora_cases import Layer, Segments, same_bits
from tests.kernels.lora_timing import (
    DEVICE,
    DTYPE,
    LlamaLayer,
    Mix,
    captured,
    copy_bandwidth,
    measured,
    microseconds,
    mixes,
    normal,
    report,
)

MIXED_RANKS = [8, 16, 32, 64, 8, 128, 16, 256] * 4
COPIES = 4
"""Layers in one graph. Each reads 436 MB, so that nothing stays in the cache until the next."""

Job = Callable[[], str]


def decode_tiles(
    shrink: dict[str, int] | None = None, expand: dict[str, int] | None = None, overlap: bool = True
) -> LoRATiles:
    return replace(
        DECODE,
        shrink=replace(DECODE.shrink, **(shrink or {})),
        expand=replace(DECODE.expand, **(expand or {})),
        overlap=overlap,
    )


SMALL = (
    {"features": 128, "split_features": 256, "warps": 2, "stages": 3, "programs_per_sm": 8},
    {"columns": 128, "programs_per_sm": 8},
)
WIDE = (
    {"features": 512, "warps": 8, "stages": 2, "programs_per_sm": 3},
    {"columns": 512, "warps": 8, "programs_per_sm": 3},
)
TWO_PER_SM = ({"programs_per_sm": 2}, {"programs_per_sm": 2})
DECODE_CONFIGS: dict[str, tuple[LoRATiles, bool]] = {
    "shipped": (decode_tiles(), False),
    "no overlap": (decode_tiles(overlap=False), False),
    "fork": (decode_tiles(overlap=False), True),
    "small": (decode_tiles(*SMALL), False),
    "fork, overlap": (decode_tiles(), True),
    "wide": (decode_tiles(*WIDE), False),
    "2 per SM": (decode_tiles(*TWO_PER_SM), False),
}
"""Tiles, and whether shrink runs beside the product of the base model on a stream of its own."""

PREFILL_CONFIGS = {
    "shipped": PREFILL,
    "rank 16": replace(PREFILL, rank=16),
    "rank 64": replace(PREFILL, rank=64, shrink=replace(PREFILL.shrink, stages=3)),
    "narrow": replace(
        PREFILL, expand=replace(PREFILL.expand, columns=128, programs_per_sm=8), overlap=False
    ),
    "tall": replace(
        PREFILL,
        rows=128,
        shrink=replace(PREFILL.shrink, warps=8, max_splits=8),
        expand=replace(PREFILL.expand, rows=16, columns=512, warps=8, programs_per_sm=4),
    ),
}


def check_case(
    shapes: list[tuple[int, list[int]]], ranks: list[list[int]], segments: Segments,
    num_rows: int, tiles: LoRATiles,
) -> None:  # fmt: skip
    """Twice with other inputs: what the first round leaves must not help the second."""
    layer = Layer(shapes, ranks, DTYPE, DEVICE, 8192)
    work = layer.work(tiles, num_rows)
    work.fill(segments)
    for index in [*range(len(shapes)), *range(len(shapes))]:
        x, before = _random(num_rows, layer, index)
        y = before.clone()
        add_lora_(y, x, layer, index, work)
        layer.check(index, y, before, x, segments)
        again = before.clone()
        add_lora_(again, x, layer, index, work)
        assert same_bits(y, again), "two runs differ"


def _random(num_rows: int, layer: Layer, index: int) -> tuple[Tensor, Tensor]:
    projection = layer.projections[index]
    x, y = normal(num_rows, projection.in_features), normal(num_rows, projection.out_features)
    awkward = torch.tensor([-0.0, float("inf"), float("nan"), 1e-40], device=DEVICE).to(DTYPE)
    y[0] = awkward[torch.arange(projection.out_features, device=DEVICE) % 4]
    return x, y


def add_lora_(y: Tensor, x: Tensor, layer: Layer, index: int, work: LoRAWork) -> None:
    """The kernels, whatever path ``apply_lora_`` would choose."""
    from loramux_kernels.triton_lora.expand import expand_
    from loramux_kernels.triton_lora.shrink import shrink

    work.partials.fill_(float("nan"))
    shrink(x, layer.projections[index], work)
    expand_(y, layer.projections[index], work)


def cases() -> dict[str, tuple[Any, ...]]:
    """Shapes, ranks, segments and rows; row 0 belongs to nobody and holds awkward values."""
    every_rank = [[1], [3], [8], [16], [17], [33], [64], [100], [255], [256]]
    packed = [(2880, [2880, 480, 480]), (688, [11008, 11008]), (11008, [688])]
    alone = [[5, 0, 16, 8, 0, 64], [0, 17, 3, 0, 40, 1], [16, 16, 16, 16, 16, 16]]
    odd = [(43, [33, 7]), (50, [1, 2, 3])]
    few: Segments = [(slot, [2 * slot + 1, 2 * slot + 2]) for slot in range(10)]
    many: Segments = [(slot, [128 - slot]) for slot in range(128)]
    long: Segments = [(0, range(1, 200)), (1, [*range(230, 600), 610]), (2, range(700, 900))]
    long_ranks: Segments = [(slot, range(70 * slot + 1, 70 * slot + 70)) for slot in range(10)]
    return {
        "slices left alone": (packed, alone, [(0, [1, 5]), (1, [7]), (2, [9, 8, 3])], 12),
        "long": (packed, alone, long, 901),
        "ranks 1-256": ([(2880, [688])], every_rank, few, 24),
        "long, ranks 1-256": ([(2880, [688])], every_rank, long_ranks, 701),
        "128 adapters": ([(4096, [1024])], [[1 + s % 31] for s in range(128)], many, 130),
        "nothing divides": (odd, [[5] * 5, [20] * 5], few[:2], 9),
    }


def correctness(shipped: bool) -> Iterator[tuple[str, Job]]:
    """All cases for the tiles that are shipped, one for each other configuration."""
    configs = {
        f"decode {name}": tiles for name, (tiles, fork) in DECODE_CONFIGS.items() if not fork
    }
    configs |= {f"prefill {name}": tiles for name, tiles in PREFILL_CONFIGS.items()}
    for name, tiles in configs.items():
        if name.endswith("shipped") == shipped:
            for case in cases() if shipped else ["long"]:
                yield f"{name}: {case}", _checking(cases()[case], tiles)


def _checking(arguments: tuple[Any, ...], tiles: LoRATiles) -> Job:
    def job() -> str:
        check_case(*arguments, tiles)
        return "right"

    return job


def decode(num_rows: int) -> Iterator[tuple[str, Job]]:
    layer = LlamaLayer(num_rows, [16] * 32 + MIXED_RANKS)
    speed, base = copy_bandwidth(), layer.measure_base(COPIES, 30)

    def job(tiles: LoRATiles, fork: bool) -> Job:
        return lambda: measured(
            layer, tiles, fork, mixes(num_rows), base, speed, COPIES, repeats=30
        )

    for name, (tiles, fork) in DECODE_CONFIGS.items():
        yield f"decode {num_rows} rows, {name}", job(tiles, fork)


def prefill(num_rows: int, counts: list[int]) -> Iterator[tuple[str, Job]]:
    layer = LlamaLayer(num_rows, [16] * 32 + [64, 256])
    speed, base = copy_bandwidth(), layer.measure_base(1, 8)
    alone = [Mix("1 of 64", [(32, range(num_rows))]), Mix("1 of 256", [(33, range(num_rows))])]
    some = [Mix(f"{count} of 16", _dealt_in_runs(count, num_rows)) for count in counts]

    def job(tiles: LoRATiles) -> Job:
        return lambda: measured(layer, tiles, False, some + alone, base, speed, 1, repeats=8)

    def plain_products() -> str:
        lines = []
        for mix in [some[0], *alone]:
            slot = mix.segments[0][0]
            graph = captured(lambda slot=slot: layer.dense(slot), 1)
            times = {"both": microseconds(graph, 1, 8)}
            lines.append(f"\n    {mix.name:13s} {report(layer, mix, base, times, speed)}")
        return "".join(lines)

    yield f"prefill {num_rows} rows, plain products", plain_products
    for name, tiles in PREFILL_CONFIGS.items():
        yield f"prefill {num_rows} rows, {name}", job(tiles)


def _dealt_in_runs(count: int, num_rows: int) -> Segments:
    each = num_rows // count
    return [(slot, range(slot * each, (slot + 1) * each)) for slot in range(count)]


def device() -> Iterator[tuple[str, Job]]:
    def describe() -> str:
        left, right = normal(8192, 8192), normal(8192, 8192)
        flops = 2 * 8192**3 / microseconds(captured(lambda: torch.mm(left, right), 1), 1, 8) / 1e6
        return (
            f"{torch.cuda.get_device_name()}, torch {torch.__version__}, copy "
            f"{copy_bandwidth() / 1e6:.2f} TB/s, bf16 matmul {flops:.0f} TFLOP/s"
        )

    yield "device", describe


def jobs() -> Iterator[tuple[str, Job]]:
    """What matters most comes first: time may run out."""
    yield from surviving("device", device())
    yield from surviving("correctness", correctness(shipped=True))
    yield from surviving("decode", decode(64))
    yield from surviving("prefill", prefill(8192, [1, 8, 32]))
    yield from surviving("decode", decode(256))
    yield from surviving("prefill", prefill(512, [1]))
    yield from surviving("correctness", correctness(shipped=False))


def surviving(name: str, part: Iterator[tuple[str, Job]]) -> Iterator[tuple[str, Job]]:
    """A part's jobs; if it cannot even be set up, that is told and the next part comes."""
    try:
        yield from part
    except Exception as error:
        print(f"{name}: {_reason(error)}", flush=True)


def run_jobs(first: int, end: float) -> int:
    """Run all jobs from one on; the index of a job that took the GPU down, or -1."""
    for index, (name, job) in enumerate(itertools.islice(jobs(), first, None), first):
        if time.time() > end:
            print(f"{name}: left out with all that follow, time is up", flush=True)
            return -1
        start = time.time()
        try:
            outcome = job()
        except Exception as error:
            outcome = _reason(error)
            if not _context_lives():
                print(f"{name}: {outcome}; the GPU context is gone", flush=True)
                return index
        print(f"{name} [{time.time() - start:.1f} s]: {outcome}", flush=True)
    return -1


def _reason(error: Exception) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    message = (str(error).strip().splitlines() or ["no message"])[0][:200]
    return f"FAILED {type(error).__name__}: {message} ({where.filename}:{where.lineno})"


def _context_lives() -> bool:
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=80.0)
    parser.add_argument("--first", type=int)
    parser.add_argument("--end", type=float)
    options = parser.parse_args()
    if options.first is None:
        run_all(time.time() + options.seconds)
        return
    torch.manual_seed(time.time_ns() % 2**31)
    down = run_jobs(options.first, options.end)
    sys.exit(0 if down < 0 else 100 + down)


def run_all(end: float) -> None:
    """All jobs in order, in a new process behind one that took the GPU down."""
    first = 0
    while first >= 0 and time.time() < end:
        command = [sys.executable, "-m", "tests.kernels.gpu_lora", "--first", str(first)]
        try:
            code = subprocess.run(
                [*command, "--end", str(end)], check=False, timeout=end + 10 - time.time()
            ).returncode
        except subprocess.TimeoutExpired:
            print("stopped, time is up", flush=True)
            return
        first = code - 99 if code >= 100 else -1
        if code and code < 100:
            print(f"ended with code {code}", flush=True)


if __name__ == "__main__":
    main()
