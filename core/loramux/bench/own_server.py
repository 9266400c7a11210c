"""``loramux serve`` in a process of its own, as anybody would start it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loramux import env
from loramux.bench import BenchmarkError

READY = "loramux is ready: "
END_SECONDS = 60


@dataclass(frozen=True)
class OwnServer:
    """A server that takes requests, and how long it took to get there."""

    url: str
    ready_seconds: float


@contextmanager
def serving(
    model: Path, adapters: Path, log: Path, engine_args: Mapping[str, Any]
) -> Iterator[OwnServer]:
    """Serve a model, under the name ``base``, with whatever adapters lie in a directory.

    Args:
        model: directory of the model.
        adapters: directory of the filesystem resolver.
        log: file for what the server says.
        engine_args: fields of ``EngineArgs``.

    Raises:
        BenchmarkError: the server does not get ready.
    """
    words = ["serve", str(model), "--served-model-name", "base", "--port", "0"]
    command = [sys.executable, "-m", "loramux", *words, *_flags(engine_args)]
    started = time.perf_counter()
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=_environment(adapters)
        ) as process,
    ):
        try:
            url = _wait_until_ready(process, log)
            yield OwnServer(url, time.perf_counter() - started)
        finally:
            _end(process)


def _flags(engine_args: Mapping[str, Any]) -> list[str]:
    words = []
    for name, value in engine_args.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", str(value)]
    return words


def _environment(adapters: Path) -> dict[str, str]:
    """Ours without what would make the server ask for keys, and with the one resolver."""
    return {
        **os.environ,
        "LORAMUX_API_KEY": "",
        "LORAMUX_API_KEYS_FILE": "",
        "LORAMUX_PLUGINS": "lora_filesystem_resolver",
        env.ADAPTER_DIRECTORY_VARIABLE: str(adapters),
        "LORAMUX_LOG_FORMAT": "text",  # the line that says it is ready is looked for below
    }


def _wait_until_ready(process: subprocess.Popen[str], log: Path) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(READY):
            return line.removeprefix(READY).split()[0]
    said = log.read_text(errors="replace").strip().splitlines()
    raise BenchmarkError(
        f"The server ended with status {process.wait()} before it was ready; "
        f"it said last: {said[-1] if said else 'nothing'}"
    )


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
