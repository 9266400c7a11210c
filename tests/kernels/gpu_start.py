"""A first and a second start of the engine on a GPU: how long, and what is compiled one by one.

    PYTHONPATH=core:kernels:plugins:resolvers:. python -m tests.kernels.gpu_start

Each start is a process of its own; both share a new cache of Triton's. Seconds are from the
process's first line to an engine that answers, imports included.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PLACED_IN_THE_BACKGROUND = {"_place"}
"""Compiled on a thread of the staging area beside everything else."""


def start(model: str) -> dict[str, object]:
    """Start an engine here and generate once."""
    started = time.perf_counter()
    from triton import knobs

    from loramux import LLM, SamplingParams

    imported = time.perf_counter()
    compiled: list[str] = []

    def note(*, src: object, cache_hit: bool, **_: object) -> None:
        if not cache_hit:
            compiled.append(src.name)

    knobs.compilation.listener = note
    llm = LLM(model, load_format="dummy", enable_lora=True)
    ready = time.perf_counter()
    compiled_by_ready = list(compiled)
    prompt = {"prompt_token_ids": list(range(5, 1100))}
    llm.generate([prompt], SamplingParams(max_tokens=4), use_tqdm=False)
    return {
        "imports": imported - started,
        "engine": ready - imported,
        "compiled_here": compiled_by_ready,
        "compiled_later": compiled[len(compiled_by_ready) :],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="llama-3.1-8b")
    parser.add_argument("--start", metavar="MODEL", help="one start; used by the script itself")
    arguments = parser.parse_args()
    if arguments.start:
        print(json.dumps(start(arguments.start)))
        return
    from loramux.bench.random_model import SHAPES, write_model

    with tempfile.TemporaryDirectory() as directory:
        model = write_model(Path(directory) / "model", SHAPES[arguments.shape], weights=False)
        environment = {**os.environ, "TRITON_CACHE_DIR": f"{directory}/triton"}
        command = [sys.executable, "-m", "tests.kernels.gpu_start", "--start", str(model)]
        for name in ("first", "second"):
            began = time.perf_counter()
            run = subprocess.run(
                command, env=environment, stdout=subprocess.PIPE, text=True, check=True
            )
            seen = json.loads(run.stdout.splitlines()[-1])
            print(
                f"{name} start: imports {seen['imports']:.1f} s, engine {seen['engine']:.1f} s, "
                f"whole process {time.perf_counter() - began:.1f} s; compiled one by one: "
                f"{seen['compiled_here'] or 'none'}, later: {seen['compiled_later'] or 'none'}"
            )
            late = set(seen["compiled_here"]) - PLACED_IN_THE_BACKGROUND
            assert not late, f"{late} were launched, but not rehearsed"
            assert not seen["compiled_later"], "a request has waited for a compilation"


if __name__ == "__main__":
    main()
