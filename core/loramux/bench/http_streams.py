"""Tokens per second of many streams over HTTP, over those of the same work without a server."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from loramux.bench import BenchmarkError
from loramux.bench.offline import engine_arguments, with_engine
from loramux.bench.own_server import serving
from loramux.bench.random_model import SHAPES, write_model
from loramux.bench.scratch import model_bytes, scratch_directory
from loramux.bench.settings import Settings
from loramux.bench.stream_load import Load, client_process, run_streams
from loramux.bench.streaming_client import StreamingClient, completion_body
from loramux.bench.workload import Workload
from loramux.llm import LLM

GOAL = 0.90

WARM_UP_TOKENS = 4
"""Of every request before anything is timed: kernels are compiled, threads started."""


@dataclass(frozen=True)
class HttpReport:
    """The best run of each; ``of_offline`` is the one over the other.

    ``offline_runs`` and ``http_runs`` are the tokens per second of every run, in their order.
    ``tokens_per_event`` is more than 1 where a server that is behind sends several at once, and
    ``client_share`` is how much of one core the client needed: near 1, it was the client that was
    measured.
    """

    streams: int
    offline_tokens_per_second: float
    http_tokens_per_second: float
    of_offline: float
    goal: float
    offline_runs: list[float]
    http_runs: list[float]
    tokens_per_event: float
    client_share: float
    cores: int


@dataclass(frozen=True)
class _Streams:
    """The workload as requests to one server, sent by another process."""

    process: Executor
    client: StreamingClient
    model: str
    workload: Workload

    def run(self, output_len: int | None = None) -> Load:
        workload = self.workload
        bodies = [
            completion_body(self.model, prompt, output_len or workload.output_len, with_usage=True)
            for prompt in workload.prompts
        ]
        return self.process.submit(run_streams, self.client, bodies).result()


def measure_http(settings: Settings) -> HttpReport:
    """All requests at once: through ``LLM.generate``, and as streams from a server.

    Server and client are processes of their own. On a CPU, which other programs use too, the runs
    of both kinds alternate; on a GPU one engine comes after the other.

    Raises:
        BenchmarkError: a request fails, or too little is known of the server.
    """
    shape = SHAPES[settings.shape]
    workload = Workload.random(
        settings.concurrent, settings.input_len, settings.output_len, shape.vocab_size
    )
    arguments = engine_arguments(settings, shape, settings.concurrent)
    arguments["skip_tokenizer_init"] = False  # who serves makes text, so both do
    with scratch_directory(settings.scratch, model_bytes(settings, shape)) as scratch:
        model = write_model(scratch / "model", shape, weights=settings.load_format == "auto")
        server = _server(settings, workload, scratch, arguments)
        if torch.cuda.is_available():
            offline = with_engine(model, arguments, lambda llm: _offline(llm, settings, workload))
            with server as streams:
                loads = [streams.run() for _ in range(settings.repeats)]
        else:
            with server as streams:
                runs = with_engine(
                    model, arguments, lambda llm: _in_turn(llm, streams, settings, workload)
                )
            offline, loads = [run[0] for run in runs], [run[1] for run in runs]
    return _report(settings, workload, offline, loads)


def _offline(llm: LLM, settings: Settings, workload: Workload) -> list[float]:
    """Seconds of each run."""
    _warm_up(llm, workload)
    return [workload.seconds(llm, [None]) for _ in range(settings.repeats)]


def _in_turn(
    llm: LLM, streams: _Streams, settings: Settings, workload: Workload
) -> list[tuple[float, Load]]:
    _warm_up(llm, workload)
    return [(workload.seconds(llm, [None]), streams.run()) for _ in range(settings.repeats)]


def _warm_up(llm: LLM, workload: Workload) -> None:
    replace(workload, output_len=min(WARM_UP_TOKENS, workload.output_len)).run(llm, [None])


@contextmanager
def _server(
    settings: Settings, workload: Workload, scratch: Path, arguments: Mapping[str, Any]
) -> Iterator[_Streams]:
    """A server of our own, or the one that the settings name, warmed up."""
    with ExitStack() as stack:
        if settings.base_url is None:
            adapters = scratch / "adapters"
            adapters.mkdir()
            own = serving(scratch / "model", adapters, scratch / "server.log", _flags(arguments))
            client, name = StreamingClient(stack.enter_context(own).url), "base"
        elif settings.model is None:
            raise BenchmarkError("--base-url needs --model, the model's name on that server.")
        else:
            client, name = StreamingClient(settings.base_url, settings.api_key), settings.model
        streams = _Streams(stack.enter_context(client_process()), client, name, workload)
        streams.run(min(WARM_UP_TOKENS, workload.output_len))
        yield streams


def _flags(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Without the one that a server does without."""
    return {name: value for name, value in arguments.items() if name != "skip_tokenizer_init"}


def _report(
    settings: Settings, workload: Workload, offline_seconds: list[float], loads: list[Load]
) -> HttpReport:
    offline = [workload.num_output_tokens / seconds for seconds in offline_seconds]
    http = [load.tokens / load.seconds for load in loads]
    best = min(loads, key=lambda load: load.seconds)
    if best.events == 0:
        raise BenchmarkError(
            "The server's streams carried tokens and no text; see that its model has a tokenizer "
            "that makes text of them."
        )
    return HttpReport(
        streams=settings.concurrent,
        offline_tokens_per_second=max(offline),
        http_tokens_per_second=max(http),
        of_offline=max(http) / max(offline),
        goal=GOAL,
        offline_runs=offline,
        http_runs=http,
        tokens_per_event=best.tokens / best.events,
        client_share=best.client_seconds / best.seconds,
        cores=os.cpu_count() or 1,
    )
