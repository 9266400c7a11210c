"""The stages from a directory to an adapter's checked tensors, timed one by one."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from blake3 import blake3

from loramux.bench.random_model import ModelShape
from loramux.lora.checkpoint import finite, tensor_file
from loramux.lora.checkpoint.finite import Bytes, FloatRuns
from loramux.lora.checkpoint.host_buffer import host_buffer
from loramux.lora.checkpoint.pairing import plan_pairs
from loramux.lora.checkpoint.peft_config import parse_config
from loramux.lora.checkpoint.pieces import PIECE_BYTES, Pieces, reading_pieces
from loramux.lora.checkpoint.read_threads import read_threads
from loramux.lora.checkpoint.reader import read_adapter, read_config
from loramux.lora.checkpoint.safetensors_header import _parse, parse_header
from loramux.lora.checkpoint.targets import resolve_targets
from loramux.lora.site import LoRASite, SiteKind

TENSORS = "adapter_model.safetensors"


def sites_of(shape: ModelShape) -> dict[str, LoRASite]:
    """The linear layers of a Llama of this shape."""
    return {
        name: LoRASite(name, SiteKind.LINEAR, *features)
        for layer in range(shape.num_hidden_layers)
        for module, features in shape.projections.items()
        for name in [f"model.layers.{layer}.{module}"]
    }


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Let so many threads read one adapter."""
    before = os.environ.get("LORAMUX_READ_THREADS")
    os.environ["LORAMUX_READ_THREADS"] = str(number)
    try:
        yield
    finally:
        os.environ.pop("LORAMUX_READ_THREADS")
        if before is not None:
            os.environ["LORAMUX_READ_THREADS"] = before


def show(name: str, seconds: list[float]) -> float:
    """Print median and 99th percentile in ms; returns the median."""
    p99 = sorted(seconds)[min(len(seconds) - 1, int(0.99 * len(seconds)))]
    print(
        f"  {name:<52}{1e3 * statistics.median(seconds):9.2f}{1e3 * p99:9.2f}"
        f"{1e3 * min(seconds):9.2f}",
        flush=True,
    )
    return statistics.median(seconds)


def measure(name: str, stage: Callable[[], object], repeats: int) -> float:
    """Time a stage; what it returns is freed between, outside of the time."""
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        result = stage()
        seconds.append(time.perf_counter() - started)
        del result
    gc.collect()
    return show(name, seconds[1:])


def touch(memory: Bytes) -> Bytes:
    """Write to every page."""
    memory[::4096] = 1
    return memory


class Stages:
    """One checkpoint whose stages are measured."""

    def __init__(self, directory: Path, sites: dict[str, LoRASite], repeats: int) -> None:
        self.directory = directory
        self.sites = sites
        self.repeats = repeats
        self.file = (directory / TENSORS).open("rb")
        self.size = os.fstat(self.file.fileno()).st_size
        prefix = self.file.read(8)
        self.header = self.file.read(int.from_bytes(prefix, "little"))
        self.origin = 8 + len(self.header)

    def python(self) -> None:
        """What is done under Python's lock, whatever the size of the tensors."""
        config = parse_config(read_config(self.directory))
        targets = resolve_targets(config, self.sites)
        entries = parse_header(self.header, self.size)
        content = torch.zeros(self.size - self.origin, dtype=torch.uint8)
        tensors = tensor_file._views(content, entries, self.origin)
        n = self.repeats
        measure("configuration", lambda: parse_config(read_config(self.directory)), n)
        measure("targets", lambda: resolve_targets(config, self.sites), n)
        measure("header, new", lambda: _parse(self.header, self.size), n)
        measure("header, seen before", lambda: parse_header(self.header, self.size), n)
        measure("views", lambda: tensor_file._views(content, entries, self.origin), n)
        shapes = {name: entry.shape for name, entry in entries.items()}
        measure("pairs", lambda: plan_pairs(shapes, targets, self.sites).fill(tensors), n)

    def bytes_on_one_thread(self) -> None:
        """What is done with every byte, each part alone, over the whole file."""
        size, descriptor = self.size - self.origin, self.file.fileno()
        content = host_buffer(size)
        content.fill(1)
        pieces = [content[start : start + PIECE_BYTES] for start in range(0, size, PIECE_BYTES)]
        n = self.repeats // 4

        def fill() -> None:
            for position, piece in enumerate(pieces):
                os.preadv(descriptor, [piece.data], self.origin + position * PIECE_BYTES)

        bf16 = torch.bfloat16
        measure("fresh memory, touched", lambda: touch(host_buffer(size)), n)
        measure("small pages, touched", lambda: touch(np.zeros(size, np.uint8)), n)
        measure("system calls into warm memory", fill, n)
        measure("BLAKE3", lambda: [blake3(p.data).digest() for p in pieces], n)
        measure("NaN and infinity", lambda: [finite.holds_non_finite(p, bf16) for p in pieces], n)

    def pieces(self, number: int) -> float:
        """All of it together, on so many threads."""
        entries = parse_header(self.header, self.size)
        runs = FloatRuns.of(entries.values(), self.origin)
        with threads(number):
            return measure(
                f"pieces read, hashed and looked through, {number} threads",
                lambda: self._read(runs),
                self._repeats(number),
            )

    def _read(self, runs: FloatRuns) -> Pieces:
        size, inspect = self.size - self.origin, runs.may_hold_non_finite
        with reading_pieces(self.file.fileno(), self.origin, size, inspect) as pieces:
            return pieces()

    def whole(self, number: int) -> float:
        """``read_adapter`` on so many threads."""
        with threads(number):
            return measure(
                f"read_adapter, {number} threads",
                lambda: read_adapter(self.directory, self.sites, max_rank=64, base_names=None),
                self._repeats(number),
            )

    def _repeats(self, number: int) -> int:
        """Few threads are slow, and measured only to show by how much."""
        return self.repeats if number > 2 or number == read_threads() else self.repeats // 4
