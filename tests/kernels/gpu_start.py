"""A first and a second start of the engine on a GPU, and a server's: where the seconds go.

    PYTHONPATH=core:kernels:plugins:resolvers:. python -m tests.kernels.gpu_start [--weights] \
        [--max-model-len 640]

Each start is a process of its own; all share a new cache of Triton's, so that only the first one
compiles. Seconds are from the process's first line to an engine that answers, or to a server that
takes requests. Runs on a CPU, too: `--shape tiny`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loramux import LLM

PLACED_IN_THE_BACKGROUND = {"_place"}
"""Compiled on a thread of the staging area beside everything else."""

STAMP = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) INFO loramux\.")
PHASE = re.compile(r"[:,] ([a-z ]+) (\d+\.\d) s")


class Phases(logging.Handler):
    """The seconds of each part of the engine's start, as its log tells them."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = {}
        logger = logging.getLogger("loramux.engine.start")
        logger.setLevel(logging.INFO)
        logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.seconds |= phases_in(record.getMessage())


def phases_in(line: str) -> dict[str, float]:
    return {name: float(seconds) for name, seconds in PHASE.findall(line)}


def start(model: Path, load_format: str, max_model_len: int | None) -> dict[str, object]:
    """Start an engine here and generate: alone, and in steps as long as they get."""
    began = time.perf_counter()
    from triton import knobs

    from loramux import LLM

    imported = time.perf_counter()
    compiled: list[str] = []

    def note(*, src: object, cache_hit: bool, **_: object) -> None:
        if not cache_hit:
            compiled.append(src.name)

    knobs.compilation.listener = note
    phases = Phases()
    lora = {"enable_lora": True, "max_loras": 2}
    llm = LLM(str(model), load_format=load_format, max_model_len=max_model_len, **lora)
    ready = time.perf_counter()
    compiled_by_ready = list(compiled)
    generate(llm, [None])
    first_tokens = time.perf_counter()
    generate(llm, [None, *adapters_beside(model)] * 10)
    return {
        "phases": {"PyTorch imported": imported - began, **phases.seconds},
        "engine": ready - began,
        "first tokens": first_tokens - ready,
        "compiled_here": compiled_by_ready,
        "compiled_later": compiled[len(compiled_by_ready) :],
    }


def generate(llm: LLM, adapters: Sequence[Path | None]) -> None:
    """A prompt for each adapter, None for the base model."""
    from loramux import SamplingParams
    from loramux.lora.request import LoRARequest

    prompts = [{"prompt_token_ids": list(range(5 + n, 505 + n))} for n in range(len(adapters))]
    requests = [path and LoRARequest(path.name, 1, str(path)) for path in adapters]
    llm.generate(prompts, SamplingParams(max_tokens=4), lora_request=requests, use_tqdm=False)


def adapters_beside(model: Path) -> list[Path]:
    return sorted((model.parent / "adapters").iterdir())


def server_start(model: Path, directory: Path, load_format: str) -> dict[str, float]:
    """Start ``loramux serve`` until it takes requests; the times on its log's lines are the wall's.

    Its first line comes when the server's own modules are there.
    """
    from loramux.bench.own_server import serving

    log = directory / "log"
    began = time.time()
    arguments = {"load_format": load_format, "enable_lora": True}
    with serving(model, directory, log, arguments) as server:
        ready = began + server.ready_seconds
    lines = [line for line in log.read_text().splitlines() if STAMP.match(line)]
    (told,) = [line for line in lines if " loramux.engine.start: " in line]
    phases = phases_in(told)
    first, engine_began = _wall(lines[0]), _wall(told) - sum(phases.values())
    return {
        "interpreter, server imported": first - began,
        "plugins, PyTorch imported": engine_began - first,
        **phases,
        "server opened": ready - _wall(told),
    }


def _wall(line: str) -> float:
    stamp = STAMP.match(line)
    assert stamp is not None
    return datetime.strptime(stamp[1], "%Y-%m-%d %H:%M:%S,%f").timestamp()


def show(what: str, phases: Mapping[str, float]) -> None:
    print(f"{what}: {sum(phases.values()):.1f} s")
    for name, seconds in phases.items():
        print(f"  {seconds:5.1f}  {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="llama-3.1-8b")
    parser.add_argument("--weights", action="store_true", help="write them, and so read them")
    parser.add_argument("--max-model-len", type=int, help="with a short one, steps still get long")
    parser.add_argument("--start", nargs=2, metavar="WORD", help="used by the script itself")
    arguments = parser.parse_args()
    if arguments.start:
        model, load_format = arguments.start
        print(json.dumps(start(Path(model), load_format, arguments.max_model_len)))
        return
    from loramux.bench.random_adapter import write_adapters
    from loramux.bench.random_model import SHAPES, write_model

    load_format = "auto" if arguments.weights else "dummy"
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        shape = SHAPES[arguments.shape]
        model = write_model(directory / "model", shape, weights=arguments.weights)
        write_adapters(directory / "adapters", shape, [16], 2)
        os.environ["TRITON_CACHE_DIR"] = f"{directory}/triton"
        for which in ("first", "second"):
            engine_start(which, model, load_format, arguments.max_model_len)
        (directory / "none").mkdir()
        show("server's start", server_start(model, directory / "none", load_format))


def engine_start(which: str, model: Path, load_format: str, max_model_len: int | None) -> None:
    command = [sys.executable, "-m", "tests.kernels.gpu_start", "--start", str(model), load_format]
    if max_model_len is not None:
        command += ["--max-model-len", str(max_model_len)]
    began = time.perf_counter()
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    whole = time.perf_counter() - began
    seen = json.loads(run.stdout.splitlines()[-1])
    show(f"{which} start of an engine", seen["phases"])
    print(
        f"  engine after {seen['engine']:.1f} s, first tokens {seen['first tokens']:.1f} s later, "
        f"whole process {whole:.1f} s\n  compiled one by one: "
        f"{seen['compiled_here'] or 'none'}, later: {seen['compiled_later'] or 'none'}"
    )
    late = set(seen["compiled_here"]) - PLACED_IN_THE_BACKGROUND
    assert not late, f"{late} were launched, but not rehearsed"
    assert not seen["compiled_later"], "a request has waited for a compilation"


if __name__ == "__main__":
    main()
