"""Attention kernels on a GPU: right in bfloat16, and how near to the ceilings of the machine.

    PYTHONPATH=kernels:. python -m tests.kernels.gpu_attention

Checks and compilation run side by side, each in a process of its own. Then one process measures;
it is started again behind a measurement that took its GPU context down or got stuck. Nothing
touches the GPU before these processes are forked, so that torch is loaded once.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial

import torch

from loramux_kernels.triton_attention import Tiles, triton_paged_attention
from tests.kernels.attention_cases import (
    Batch,
    Case,
    compute,
    make_batch,
    plain_attention,
    relative_error,
)
from tests.kernels.attention_timing import (
    BEFORE_AND_PREDICTED,
    DECODE_SHAPES,
    DECODE_TILES,
    LLAMA,
    OTHER_LAYERS,
    OTHER_TILES,
    PREFILL_SHAPES,
    PREFILL_TILES,
    Layer,
    Shapes,
    copy_bandwidth,
    decode_figures,
    matmul_rate,
    no_overlap,
    prefill_figures,
    python_costs,
    small_parts,
    warm,
)
from tests.kernels.overlap_cases import check_overlap

FORK = multiprocessing.get_context("fork")
CHECK_SECONDS, CELL_SECONDS, ALL_SECONDS = 32, 10, 47
DEVICE = "cuda"
BF16 = torch.bfloat16
ERRORS = {torch.bfloat16: 6e-3, torch.float16: 1e-3, torch.float32: 2e-5}
MIXED = ((2000, 1), (517, 1), (1, 1), (0, 1), (3000, 300), (700, 700), (129, 128), (4097, 1))
DECODES = (*((n, 1) for n in range(60, 1000, 11)), (0, 1), (9000, 1), (0, 0))
LLAMA_CASE = Case(MIXED, heads=32, kv_heads=8, key_dim=128, value_dim=128)
CHECKS: dict[str, tuple[Case, torch.dtype]] = {
    "Llama": (LLAMA_CASE, BF16),
    "float16": (LLAMA_CASE, torch.float16),
    "float32": (LLAMA_CASE.with_(heads=8, kv_heads=2), torch.float32),
    "decodes, sinks": (LLAMA_CASE.with_(shapes=DECODES, sinks=True), BF16),
    "many short": (LLAMA_CASE.with_(shapes=tuple((n, 1 + n % 3) for n in range(3, 200))), BF16),
    "window 700": (LLAMA_CASE.with_(window=700), BF16),
    "28/4 heads": (LLAMA_CASE.with_(heads=28, kv_heads=4), BF16),
    "71/1 heads": (Case(MIXED, 71, 1, 64, 64), BF16),
    "one block is 128": (LLAMA_CASE.with_(block_size=128), BF16),
    "one block is 8": (LLAMA_CASE.with_(block_size=8), BF16),
    "64, sinks, window": (Case(MIXED, 64, 8, 64, 64, window=128, sinks=True), BF16),
    "80": (Case(MIXED, 32, 32, 80, 80), BF16),
    "96": (Case(MIXED, 32, 32, 96, 96), BF16),
    "256, cap": (Case(MIXED, 16, 8, 256, 256, window=1024, softcap=50.0, scale=1.0), BF16),
    "keys 192, values 128": (Case(MIXED, 16, 16, 192, 128), BF16),
}


def check(name: str) -> str:
    """Twice the same bits, and the same as float64 but for rounding."""
    case, dtype = CHECKS[name]
    batch = make_batch(case, dtype, DEVICE)
    out, again, expected = compute(batch), compute(batch), batch.expected
    error = relative_error(out, expected)
    worst = float((out.double() - expected).abs().max())
    good = error < ERRORS[dtype] and torch.equal(out, again)
    return f"{'ok' if good else 'WRONG'}  error {error:.1e}, worst {worst:.1e}, " + (
        "same bits" if torch.equal(out, again) else "OTHER BITS THE SECOND TIME"
    )


def check_graph() -> str:
    """One captured pass, then other lengths and other sequences through the same tensors."""
    case = LLAMA_CASE.with_(shapes=((900, 1),) * 8)
    batch = make_batch(case, BF16, DEVICE)
    out = compute(batch)
    tokens = torch.arange(900, device=DEVICE)
    table = batch.metadata.block_table.clone()
    triton_paged_attention(batch.query, batch.cache, batch.metadata, batch.options)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        metadata = replace(batch.metadata)
        triton_paged_attention(batch.query, batch.cache, metadata, batch.options, out=out)
    errors = []
    for lengths in ([900] * 8, [1, 5, 16, 17, 0, 0, 650, 899], [0] * 8, [33, 0, 1, 64, 2, 3, 4, 5]):
        order = torch.randperm(8)
        batch.metadata.block_table.copy_(table[order])
        batch.metadata.lengths.copy_(torch.tensor(lengths))
        batch.query.normal_()
        out.fill_(float("nan"))
        graph.replay()
        for row, (length, index) in enumerate(zip(lengths, order, strict=True)):
            slots = table[index].long()[tokens[:length] // 16] * 16 + tokens[:length] % 16
            keys, values = (x.flatten(0, 1)[slots] for x in (batch.cache.keys, batch.cache.values))
            expected = plain_attention(batch.query[row : row + 1], keys, values, batch.options)
            distance = (out[row : row + 1].double() - expected).norm()
            errors.append(float(distance / expected.norm().clamp(min=1)))
    good = all(error < ERRORS[BF16] for error in errors)
    return f"{'ok' if good else 'WRONG'}  error {max(errors):.1e} over {len(errors)} rows"


JOINED = {
    "cut alike": ((600, 1),) * 16,
    "cut anywhere": tuple((40 + 61 * i % 900, 1) for i in range(30)),
    "many chunks": ((9000, 1), (0, 1)),
}


def check_joins(replays: int = 20) -> str:
    """Layers with queries of their own, whose chunks meet in the same memory, replayed."""
    different, errors = 0, []
    for shapes in JOINED.values():
        batch = make_batch(LLAMA_CASE.with_(shapes=shapes), BF16, DEVICE)
        errors.append(relative_error(compute(batch), batch.expected))
        queries = [torch.randn_like(batch.query) for _ in range(8)]

        def layers(queries: list[torch.Tensor] = queries, batch: Batch = batch) -> list:
            metadata = replace(batch.metadata)
            place = (batch.cache, metadata, batch.options)
            return [triton_paged_attention(query, *place) for query in queries]

        layers()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = layers()
        for _ in range(replays):
            for query in queries:
                query.normal_()
            graph.replay()
            alone = []
            for query in queries:
                torch.cuda.synchronize()
                alone += layers([query])
            different += not torch.equal(torch.stack(out), torch.stack(alone))
    good = not different and max(errors) < ERRORS[BF16]
    return (
        f"{'ok' if good else 'WRONG'}  {different} replays have other bits, error {max(errors):.1e}"
    )


def warm_up(name: str, tiles: Tiles, shapes: dict[str, Shapes]) -> str:
    with overlap_of(name):
        warm(LLAMA, list(shapes.values()), tiles)
    return "ok"


def overlap_of(name: str) -> AbstractContextManager[None]:
    """What to measure a column of that name in."""
    return no_overlap() if name == "no overlap" else nullcontext()


def warm_other(layer: Layer) -> str:
    for tiles in OTHER_TILES.get(layer.dim, [None]):
        warm(layer, [((40, 1),) * 64, ((40, 40),)], tiles)
    return "ok"


def first_jobs() -> dict[str, Callable[[], str]]:
    """Checks, and one compilation of all that will be measured."""
    jobs: dict[str, Callable[[], str]] = {name: partial(check, name) for name in CHECKS}
    jobs["one graph, other batches"] = check_graph
    jobs["layers that overlap"] = check_overlap
    jobs["chunks that are joined"] = check_joins
    for name, tiles in DECODE_TILES.items():
        jobs[f"compile decode {name}"] = partial(warm_up, name, tiles, DECODE_SHAPES)
    for name, tiles in PREFILL_TILES.items():
        jobs[f"compile prefill {name}"] = partial(warm_up, name, tiles, PREFILL_SHAPES)
    jobs |= {f"compile {n}": partial(warm_other, layer) for n, layer in OTHER_LAYERS.items()}
    return jobs


JOBS = first_jobs()


def run_job(name: str) -> str:
    try:
        return JOBS[name]()
    except Exception as error:
        return f"FAILED  {brief(error)}"


def brief(error: Exception) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]} ({where.name})"


def run_first_jobs() -> int:
    begin, failures = time.monotonic(), 0
    with FORK.Pool(min(12, os.cpu_count() or 1), maxtasksperchild=1) as pool:
        results = {name: pool.apply_async(run_job, (name,)) for name in JOBS}
        for name, result in results.items():
            try:
                said = result.get(max(0.1, begin + CHECK_SECONDS - time.monotonic()))
            except multiprocessing.TimeoutError:
                said = "FAILED  not done in time"
            failures += not said.startswith("ok")
            if said != "ok":
                print(f"{name:26s} {said}", flush=True)
    print(f"checked and compiled in {time.monotonic() - begin:.0f} s", flush=True)
    return failures


CEILINGS = FORK.Array("d", 2)
"""Measured: bytes copied and operations of a matrix product a second."""


def ceilings() -> str:
    CEILINGS[:] = [copy_bandwidth(), matmul_rate()]
    name = torch.cuda.get_device_name()
    return f"{name}: copy {CEILINGS[0] / 1e12:.2f} TB/s, matmul {CEILINGS[1] / 1e12:.0f} TFLOP/s"


def decode_cell(layer: Layer, shapes: Shapes, tiles: Tiles | None, name: str = "") -> str:
    with overlap_of(name):
        seconds, rate = decode_figures(layer, shapes, tiles)
    return f"{seconds * 1e6:8.1f} us {rate / 1e12:.2f} {rate / (CEILINGS[0] or math.inf):4.0%} |"


def prefill_cell(layer: Layer, shapes: Shapes, tiles: Tiles | None) -> str:
    seconds, rate = prefill_figures(layer, shapes, tiles)
    return f"{seconds * 1e3:8.3f} ms {rate / 1e12:3.0f} {rate / (CEILINGS[1] or math.inf):4.0%} |"


def cells() -> list[Callable[[], str]]:
    """All that is measured, in the order in which it is printed."""
    todo: list[Callable[[], str]] = [ceilings]
    todo.append(
        partial(head, "decode: version 3, predicted, us, TB/s, share of copy", DECODE_TILES, 33)
    )
    for name, shapes in DECODE_SHAPES.items():
        todo.append(partial(expectations, name))
        todo += [partial(decode_cell, LLAMA, shapes, tiles, n) for n, tiles in DECODE_TILES.items()]
    todo.append(partial(head, "prefill, TFLOP/s visible, share of matmul", PREFILL_TILES))
    for name, shapes in PREFILL_SHAPES.items():
        todo.append(partial(str, f"\n{name:20s}"))
        todo += [partial(prefill_cell, LLAMA, shapes, tiles) for tiles in PREFILL_TILES.values()]
    title = "\n\nother layers: decode 64 x 2048, prefill 1 x 8192; default tiles, then others"
    todo.append(partial(str, title))
    for name, layer in OTHER_LAYERS.items():
        several = OTHER_TILES.get(layer.dim, [None])
        todo.append(partial(str, f"\n{name:24s}"))
        todo += [partial(decode_cell, layer, ((2048, 1),) * 64, tiles) for tiles in several]
        todo += [partial(prefill_cell, layer, ((8192, 8192),), tiles) for tiles in several]
    todo.append(lambda: "\n\nmicroseconds on the GPU: " + ", ".join(small_parts()))
    todo.append(lambda: "\nmicroseconds of Python a call: " + ", ".join(python_costs()))
    return todo


def expectations(name: str) -> str:
    before, predicted = BEFORE_AND_PREDICTED[name]
    return f"\n{name:20s}{before or '-':>7} {predicted:5} "


def head(title: str, tiles: dict[str, object], width: int = 20) -> str:
    return f"\n\n{title}\n{'':{width}s}" + "".join(f"{name:^23s}|" for name in tiles)


def measure(todo: list[Callable[[], str]], progress) -> None:
    """Print cell after cell; a broken GPU context ends the process."""
    while progress.value < len(todo):
        try:
            text = todo[progress.value]()
        except Exception as error:
            text = f" FAILED {brief(error)} |"
            print(text, end="", flush=True)
            torch.cuda.synchronize()
            text = ""
        print(text, end="", flush=True)
        progress.value += 1


def run_cells(deadline: float) -> None:
    todo, progress = cells(), FORK.Value("i", 0)
    while progress.value < len(todo) and time.monotonic() < deadline:
        child = FORK.Process(target=measure, args=(todo, progress))
        child.start()
        before = -1
        while child.is_alive() and before < progress.value and time.monotonic() < deadline:
            before = progress.value
            child.join(CELL_SECONDS)
        if child.is_alive():
            print(" STUCK |", end="", flush=True)
            child.kill()
        child.join()
        progress.value += progress.value < len(todo)
    print("" if progress.value == len(todo) else f"\n{len(todo) - progress.value} parts not run")


def main() -> int:
    begin = time.monotonic()
    failures = run_first_jobs()
    run_cells(begin + ALL_SECONDS)
    print(f"{failures} failures in checks and compilation, {time.monotonic() - begin:.0f} s in all")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
