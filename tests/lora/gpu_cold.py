"""How long a never-seen adapter takes whose file is in the page cache: ``python -m`` this module.

It prints milliseconds (median, 99th percentile, least) of each stage from an HTTP request that
names an unknown adapter to its checked tensors on the host, for an adapter of 84 MB and one of a
few kilobytes; then, for reading in this process and in one of its own, how long a cold load takes
beside a busy Python thread and how long that is held up. Only placing asks for a GPU, if there is.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path

import torch
from starlette.testclient import TestClient

from loramux.bench.random_adapter import write_adapter
from loramux.bench.random_model import SHAPES, ModelShape
from loramux.lora.adapter import AdapterInfo
from loramux.lora.checkpoint.read_threads import read_threads
from loramux.lora.checkpoint.reader import read_adapter
from loramux.lora.fetch.locate import CHECKPOINT_FILES, locate
from loramux.lora.fetch.materializer import Materializer
from loramux.lora.request import LoRARequest
from loramux.testing.fake_engine import FakeEngine
from loramux.testing.fake_server import serving
from loramux_resolvers.filesystem import FilesystemLoRAResolver
from tests.lora.cold_stages import Stages, measure, sites_of
from tests.lora.cold_ways import WAYS, measure_pieces, measure_placing, measure_way

LARGE = SHAPES["llama-3.1-8b"]
SMALL = ModelShape(64, 16, 16, 1, 1, 1)
REPEATS = 20


class ReadingEngine(FakeEngine):
    """Computes nothing, but reads adapters as the real one does."""

    def __init__(self, materializer: Materializer) -> None:
        super().__init__()
        self.materializer = materializer

    async def load_lora(self, lora_request: LoRARequest) -> AdapterInfo:
        adapter = await asyncio.wrap_future(self.materializer.load(lora_request))
        info = self.materializer.info(lora_request.lora_name, adapter, frozenset())
        self._infos[lora_request] = info
        return info


def materializer_for(shape: ModelShape, host_cache_size: int = 4) -> Materializer:
    sites = sites_of(shape)
    return Materializer(
        lambda source: read_adapter(source.directory, sites, max_rank=64, base_names=None),
        host_cache_size,
    )


class Shelf:
    """One adapter under as many names as are asked for, all of them the same cached pages."""

    def __init__(self, root: Path, shape: ModelShape) -> None:
        self.original = write_adapter(root / "original", shape, 16, seed=0)
        self.shelf = root / "shelf"
        self.shelf.mkdir()
        self.count = 0

    def new(self) -> str:
        self.count += 1
        directory = self.shelf / f"adapter-{self.count}"
        directory.mkdir()
        for name in CHECKPOINT_FILES:
            os.link(self.original / name, directory / name)
        return directory.name

    def request(self) -> LoRARequest:
        name = self.new()
        return LoRARequest(name, 1, str(self.shelf / name))


def measure_materializer(shelf: Shelf, shape: ModelShape) -> None:
    """From a request that names a directory to the adapter, without HTTP."""
    request = shelf.request()
    measure("locate", lambda: locate(request), REPEATS)
    materializer = materializer_for(shape)
    try:
        requests = iter([shelf.request() for _ in range(REPEATS + 1)])
        measure(
            "materializer.load, cold", lambda: materializer.load(next(requests)).result(), REPEATS
        )
        measure("materializer.load, known", lambda: materializer.load(request).result(), REPEATS)
    finally:
        materializer.shutdown()


def measure_http(shelf: Shelf, shape: ModelShape) -> None:
    """Requests for one token, in this process; a cold one reads through resolver and catalog."""
    materializer = materializer_for(shape)
    engine = ReadingEngine(materializer)
    with serving(FilesystemLoRAResolver(shelf.shelf), engine) as client:
        names = iter([shelf.new() for _ in range(REPEATS + 1)])
        base = measure("HTTP, base model", lambda: ask(client, "base"), REPEATS)
        cold = measure("HTTP, never-seen adapter", lambda: ask(client, next(names)), REPEATS)
        warm = measure("HTTP, known adapter", lambda: ask(client, "adapter-1"), REPEATS)
    materializer.shutdown()
    print(f"  never seen - known: {1e3 * (cold - warm):.2f} ms")
    print(f"  known - base: {1e3 * (warm - base):.2f} ms")


def ask(client: TestClient, model: str) -> None:
    body = {"model": model, "prompt": [1, 2], "max_tokens": 1}
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text


def python_work() -> None:
    """About 50 microseconds of Python that never lets its lock go by itself."""
    sum(range(2000))


_MATRIX = torch.ones(64, 64)


def torch_work() -> None:
    """Operators as an engine's thread calls them, each letting the lock go."""
    for _ in range(5):
        torch.mm(_MATRIX, _MATRIX)


def main() -> None:
    torch.set_num_threads(1)
    cores = len(os.sched_getaffinity(0))
    print(f"{cores} cores, {read_threads()} reading threads, Python {sys.version.split()[0]}")
    print(f"{'':54}{'median':>9}{'p99':>9}{'min':>9}  ms")
    with tempfile.TemporaryDirectory(prefix="loramux-cold-") as scratch:
        root = Path(scratch)
        (root / "large").mkdir()
        (root / "small").mkdir()
        large, small = Shelf(root / "large", LARGE), Shelf(root / "small", SMALL)
        stages = Stages(large.original, sites_of(LARGE), REPEATS)
        print(f" an adapter of {stages.size / 1e6:.1f} MB: bytes on one thread")
        stages.bytes_on_one_thread()
        for number in dict.fromkeys((1, 2, 4, 8, cores)):
            if number <= cores:
                stages.pieces(number)
        measure_pieces(stages, read_threads())
        print(" Python alone")
        stages.python()
        print(" together")
        stages.whole(1)
        stages.whole(read_threads())
        measure_materializer(large, LARGE)
        measure_http(large, LARGE)
        print(" a tiny adapter")
        Stages(small.original, sites_of(SMALL), REPEATS).whole(read_threads())
        measure_materializer(small, SMALL)
        measure_http(small, SMALL)
        measure_placing(sites_of(LARGE), large.request, REPEATS)
        for busy, work in (("runs Python", python_work), ("calls operators", torch_work)):
            print(f" beside a thread that {busy}, switching as a server does")
            for way in WAYS:
                measure_way(way, sites_of(LARGE), large.request, work)


if __name__ == "__main__":
    main()
