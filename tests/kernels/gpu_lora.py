"""LoRA kernels on a GPU: correct in bfloat16, and how long beside the products they update.

    PYTHONPATH=kernels:. python -m tests.kernels.gpu_lora

Times are of the seven projections of one Llama 3.1 8B layer, replayed as a CUDA graph; one graph
serves every mix of adapters. ``base`` is the layer without adapters, ``bound`` what the bytes of
the adapters, of their rows' inputs and of their outputs cost at the speed of a copy; in brackets
the throughput that is left. A process of its own does the work; it is started again behind a
job that crashed it, took its GPU context down or hangs.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from loramux_kernels.triton_lora import DECODE, LoRATiles
from tests.kernels.lora_cases import Segments
from tests.kernels.lora_configs import DECODE_CONFIGS, PREFILL_CONFIGS
from tests.kernels.lora_correctness import Job, correctness
from tests.kernels.lora_timing import (
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
MAX_JOB_SECONDS = 30.0


def decode(num_rows: int) -> Iterator[tuple[str, Job]]:
    layer = LlamaLayer(num_rows, [16] * 32 + MIXED_RANKS)
    speed, base = copy_bandwidth(), layer.measure_base(COPIES, 30)

    def job(tiles: LoRATiles, fork: bool) -> Job:
        return lambda: measured(
            layer, tiles, fork, mixes(num_rows), base, speed, COPIES, repeats=30
        )

    for name, (tiles, fork) in DECODE_CONFIGS.items():
        yield f"decode {num_rows} rows, {name}", job(tiles, fork)
    yield f"decode {num_rows} rows, time of the CPU", lambda: cpu_time(layer)


def cpu_time(layer: LlamaLayer, repeats: int = 20) -> str:
    """What launching costs where no graph is replayed, and refilling where one is."""
    segments = mixes(layer.num_rows)[4].segments
    work = layer.lora.work(DECODE, layer.num_rows)
    steps: dict[str, Callable[[], None]] = {
        "fill for 32 adapters": lambda: work.fill(segments),
        "4 products": layer.base,
        "4 products, 4 shrinks, 4 expands": lambda: layer.with_lora(work, False),
    }
    cells = []
    for name, step in steps.items():
        step()
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(repeats):
            step()
        cells.append(f"{name} {(time.perf_counter() - start) / repeats * 1e6:.0f} us")
        torch.cuda.synchronize()
    return ", ".join(cells)


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


def run_jobs(first: int, end: float, progress: Path) -> None:
    """Run all jobs from one on, noting which one is running.

    Raises:
        RuntimeError: a job took the GPU down.
    """
    for index, (name, job) in enumerate(itertools.islice(jobs(), first, None), first):
        if time.time() > end:
            print(f"{name}: left out with all that follow, time is up", flush=True)
            return
        progress.write_text(str(index))
        start = time.time()
        try:
            outcome = job()
        except Exception as error:
            outcome = _reason(error)
        print(f"{name} [{time.time() - start:.1f} s]: {outcome}", flush=True)
        torch.cuda.synchronize()


def _reason(error: Exception) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    message = (str(error).strip().splitlines() or ["no message"])[0][:200]
    return f"FAILED {type(error).__name__}: {message} ({where.filename}:{where.lineno})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=80.0)
    parser.add_argument("--first", type=int)
    parser.add_argument("--end", type=float)
    parser.add_argument("--progress", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("These checks need a CUDA GPU: run them where there is one.")
    if options.first is None:
        run_all(time.time() + options.seconds)
        return
    torch.manual_seed(time.time_ns() % 2**31)
    run_jobs(options.first, options.end, options.progress)


def run_all(end: float) -> None:
    """All jobs in order, in a new process behind one that crashed or hangs."""
    with tempfile.TemporaryDirectory() as folder:
        progress = Path(folder) / "job"
        first = 0
        while time.time() < end:
            progress.write_text(str(first))
            code = _watched(first, end, progress)
            if code == 0:
                return
            last = int(progress.read_text())
            print(f"job {last} ended the process with code {code}", flush=True)
            first = last + 1


def _watched(first: int, end: float, progress: Path) -> int:
    """Exit code of a process that runs the jobs; it is killed where one takes too long."""
    command = [sys.executable, "-m", "tests.kernels.gpu_lora", "--first", str(first)]
    with subprocess.Popen([*command, "--end", str(end), "--progress", str(progress)]) as process:
        while process.poll() is None:
            time.sleep(0.2)
            if time.time() - progress.stat().st_mtime > MAX_JOB_SECONDS or time.time() > end + 8:
                process.kill()
        return process.returncode


if __name__ == "__main__":
    main()
