"""What adapters cost in device memory, how soon a server is ready, and adapters beyond memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from loramux.bench.adapter_memory import AdapterMemory, measure_adapter_memory
from loramux.bench.offline import engine_arguments, release_memory, with_engine
from loramux.bench.own_server import serving
from loramux.bench.random_adapter import write_adapter
from loramux.bench.random_model import SHAPES, ModelShape, compute_dtype, write_model
from loramux.bench.scratch import adapter_bytes, model_bytes, scratch_directory
from loramux.bench.settings import Settings
from loramux.bench.shelf import AdapterShelf
from loramux.bench.target import server_arguments
from loramux.bench.workload import Workload, adapter_requests
from loramux.llm import LLM
from loramux_kernels.triton_lora import PAGE_BYTES

SMALL_RANK = 8


@dataclass(frozen=True)
class ServerStart:
    """Seconds from starting ``loramux serve`` until it takes requests, without LoRA and with."""

    without_lora_seconds: float
    with_lora_seconds: float
    load_format: str


@dataclass(frozen=True)
class PowerLaw:
    """Requests for some of ``num_adapters`` adapters, the n-th asked for 1/n as often as the first.

    ``num_drawn`` of them are asked for at all, and only those are written to disk. ``resident``
    have room on the device at one time; in the run beside it all of them have.
    """

    num_adapters: int
    num_drawn: int
    resident: int
    num_requests: int
    tokens_per_second: float
    all_resident_tokens_per_second: float
    of_all_resident: float


@dataclass(frozen=True)
class MemoryReport:
    """The three of them."""

    adapter: AdapterMemory
    server_start: ServerStart
    power_law: PowerLaw


def measure_memory(settings: Settings) -> MemoryReport:
    """Measure on this machine.

    Raises:
        BenchmarkError: the adapters do not fit on the disk, or a server does not start.
    """
    shape = SHAPES[settings.shape]
    draws = draw_power_law(settings.num_adapters, settings.power_law_requests)
    num_bytes = len(set(draws)) * adapter_bytes(shape, settings.rank)
    num_bytes += model_bytes(settings, shape)
    with scratch_directory(settings.scratch, num_bytes) as scratch:
        model = write_model(scratch / "model", shape, weights=settings.load_format == "auto")
        start = _server_start(settings, model, scratch)
        template = write_adapter(scratch / "small", shape, SMALL_RANK, seed=0)
        small = AdapterShelf(scratch / "small-adapters", template)
        adapter = measure_adapter_memory(settings, shape, model, small)
        small.clear()
        release_memory()
        return MemoryReport(adapter, start, _power_law(settings, shape, model, scratch, draws))


def draw_power_law(num_adapters: int, num_requests: int, seed: int = 0) -> list[int]:
    """The adapter of each request, from 0; the n-th is drawn 1/n as often as the first."""
    odds = 1.0 / torch.arange(1, num_adapters + 1)
    generator = torch.Generator().manual_seed(seed)
    draws = torch.multinomial(odds, num_requests, replacement=True, generator=generator)
    return [int(draw) for draw in draws]


def _server_start(settings: Settings, model: Path, scratch: Path) -> ServerStart:
    """The model's files have just been written, so they are in the page cache."""
    adapters = scratch / "none"
    adapters.mkdir()
    with_lora = server_arguments(settings)
    without = {"load_format": settings.load_format, **settings.engine_args}

    def ready_seconds(arguments: dict[str, Any]) -> float:
        with serving(model, adapters, scratch / "server.log", arguments) as server:
            return server.ready_seconds

    return ServerStart(ready_seconds(without), ready_seconds(with_lora), settings.load_format)


def _power_law(
    settings: Settings, shape: ModelShape, model: Path, scratch: Path, draws: Sequence[int]
) -> PowerLaw:
    template = write_adapter(scratch / "template", shape, settings.rank, seed=0)
    shelf = AdapterShelf(scratch / "adapters", template)
    drawn = sorted(set(draws))
    paths = dict(zip(drawn, (shelf.directory / n for n in shelf.keep(len(drawn))), strict=True))
    asked = [paths[draw] for draw in draws]
    few = _speed(settings, shape, model, asked, settings.resident)
    everybody = _speed(settings, shape, model, asked, len(drawn))
    return PowerLaw(
        num_adapters=settings.num_adapters,
        num_drawn=len(drawn),
        resident=settings.resident,
        num_requests=len(draws),
        tokens_per_second=few,
        all_resident_tokens_per_second=everybody,
        of_all_resident=few / everybody,
    )


def _speed(
    settings: Settings, shape: ModelShape, model: Path, asked: Sequence[Path], places: int
) -> float:
    """Output tokens per second of requests for these adapters, after each was asked for once."""
    unique = sorted(set(asked), key=asked.index)
    request_of = dict(zip(unique, adapter_requests(unique), strict=True))
    size = len(asked), settings.input_len
    workload = Workload.random(*size, settings.output_len, shape.vocab_size)
    arguments = engine_arguments(settings, shape, min(len(asked), 256))
    warm = Workload.random(len(unique), settings.input_len, 1, shape.vocab_size, seed=1)

    def seconds(llm: LLM) -> float:
        warm.run(llm, list(request_of.values()))
        return workload.seconds(llm, [request_of[path] for path in asked])

    arguments = {**residency(settings, shape, places), **arguments}
    return workload.num_output_tokens / with_engine(model, arguments, seconds)


def residency(settings: Settings, shape: ModelShape, places: int) -> dict[str, Any]:
    """Arguments of an engine with room on the device for so many adapters of ``settings.rank``.

    As many run in one batch whatever has room: ``max_loras``, or half of those that are resident
    where there are few.
    """
    num_bytes = shape.num_adapter_weights(settings.rank) * compute_dtype().itemsize
    return {
        "enable_lora": True,
        "max_lora_rank": settings.rank,
        "max_loras": min(settings.max_loras, max(1, settings.resident // 2)),
        "lora_memory_bytes": places * (-(-num_bytes // PAGE_BYTES) + 1) * PAGE_BYTES,
    }
