"""Figures and traces of a real engine on the way of an adapter to the device and out again."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from loramux.engine.args import EngineArgs
from loramux.engine.async_llm_engine import AsyncLLMEngine
from loramux.observability.tracing import RequestTracer
from tests.server.checkpoints import save_adapter, save_model
from tests.server.conftest import FolderResolver, state_around
from tests.server.running_server import RunningServer, running, wait_until
from tests.server.scraping import Scrape

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")


EXPORTER = InMemorySpanExporter()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkpoints")
    save_model(root / "model")
    for seed, name in enumerate(("red", "green", "blue", "white", "grey"), 1):
        save_adapter(root / "adapters" / name, root / "model", seed=seed)
    return root


@pytest.fixture(scope="module")
def shared_server(folder: Path) -> Iterator[RunningServer]:
    """One adapter on the device at a time, two on the host."""
    args = EngineArgs(
        model=str(folder / "model"), served_model_name=["base"], enable_lora=True, max_loras=1,
        max_cpu_loras=2, max_num_seqs=2, max_num_batched_tokens=64, num_gpu_blocks_override=10,
    )  # fmt: skip
    engine = AsyncLLMEngine.from_engine_args(args)
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(EXPORTER))
    resolver = FolderResolver(folder / "adapters")
    with running(state_around(engine, resolver, tracer=RequestTracer(provider))) as server:
        yield server
    asyncio.run(engine.shutdown())


@pytest.fixture
def server(shared_server: RunningServer) -> RunningServer:
    return shared_server


def ask(server: RunningServer, model: str, **body: object) -> int:
    content = {"model": model, "prompt": "hello", "max_tokens": 4, "ignore_eos": True, **body}
    with server.http() as client:
        return client.post("/v1/completions", json=content).status_code


def test_the_way_of_adapters_through_the_tiers(server: RunningServer) -> None:
    # A CPU keeps more adapters than run in one batch; ask for each until one has to go.
    for name in ("red", "red", "green", "blue", "red"):
        assert ask(server, name) == 200
    scrape = Scrape.of(server)
    requests = scrape.value("lora_hits_total", tier="device") + scrape.value(
        "lora_misses_total", tier="device"
    )
    assert requests == 5
    assert scrape.value("lora_hits_total", tier="device") >= 1
    assert scrape.value("lora_misses_total", tier="host") >= 3
    assert scrape.value("lora_hits_total", tier="disk") >= 3
    assert scrape.value("lora_misses_total", tier="disk") == 0
    assert scrape.value("lora_evictions_total", tier="host") >= 1
    tiers = [scrape.value("lora_adapters", tier=tier) for tier in ("device", "host", "disk")]
    assert sum(tiers) == 3
    assert tiers[0] >= 1
    for stage, at_least in {"resolve": 3, "fetch": 0, "read": 3, "place": 3}.items():
        assert scrape.value("lora_stage_seconds_count", stage=stage) >= at_least
        assert scrape.value("lora_stage_seconds_sum", stage=stage) < 60
    assert scrape.value("lora_read_bytes_total") >= 3 * 1000
    assert scrape.value("lora_adapter_bytes") >= 3 * 1000


def test_loads_by_outcome_and_first_tokens_by_where_the_adapter_was(
    server: RunningServer, folder: Path
) -> None:
    broken = folder / "adapters" / "broken"
    shutil.copytree(folder / "adapters" / "red", broken)
    (broken / "adapter_model.safetensors").write_bytes(b"torn")
    before = Scrape.of(server)
    seen = [ask(server, name, stream=True) for name in ("base", "broken", "grey", "grey")]
    assert seen == [200, 400, 200, 200]
    after = Scrape.of(server)

    def grown(name: str, **labels: str) -> float:
        return after.value(name, **labels) - before.value(name, **labels)

    assert grown("lora_loads_total", outcome="refused") == 1
    assert grown("lora_loads_total", outcome="loaded") == 1
    assert grown("lora_loads_total") == 2
    assert grown("engine_generation_tokens_total") == grown("server_generation_tokens_total") == 12
    for adapter in ("none", "cold", "warm"):
        assert grown("server_time_to_first_token_seconds_count", adapter=adapter) == 1, adapter


def test_the_engines_gauges_while_it_runs(server: RunningServer) -> None:
    assert Scrape.of(server).value("num_requests_running") == 0
    thread = threading.Thread(target=ask, args=(server, "red"), kwargs={"max_tokens": 100, "n": 3})
    thread.start()
    seen = Scrape.of(server)
    while thread.is_alive() and seen.value("num_requests_running") < 2:
        seen = Scrape.of(server)
    assert seen.value("num_requests_running") == 2
    assert seen.value("num_requests_waiting") == 1
    assert 0 < seen.value("kv_cache_usage_perc") <= 1
    assert seen.labels("lora_requests_info", "running_lora_adapters") == {"red"}
    assert seen.labels("lora_requests_info", "max_lora") == {"1"}
    assert seen.value("lora_requests_info") == pytest.approx(time.time(), abs=60)
    thread.join()
    wait_until(lambda: Scrape.of(server).value("num_requests_running") == 0)
    after = Scrape.of(server)
    assert after.value("kv_cache_usage_perc") == 0
    assert after.labels("lora_requests_info", "running_lora_adapters") == {""}


def test_prompt_tokens_from_the_prefix_cache(server: RunningServer) -> None:
    before = Scrape.of(server)
    prompt = "a" * 40
    assert ask(server, "base", prompt=prompt) == 200
    assert ask(server, "base", prompt=prompt) == 200
    after = Scrape.of(server)
    queries = after.value("prefix_cache_queries_total") - before.value("prefix_cache_queries_total")
    hits = after.value("prefix_cache_hits_total") - before.value("prefix_cache_hits_total")
    assert queries == 80
    assert hits == 32
    assert after.value("request_queue_time_seconds_count") >= 2


def test_sequences_that_give_their_blocks_to_others(server: RunningServer) -> None:
    before = Scrape.of(server).value("num_preemptions_total")
    assert ask(server, "red", max_tokens=100, n=2) == 200  # 14 blocks, and there are 10
    assert Scrape.of(server).value("num_preemptions_total") > before


def test_every_stage_of_a_cold_adapter_is_a_span(server: RunningServer) -> None:
    EXPORTER.clear()
    assert ask(server, "white") == 200
    wait_until(lambda: any("POST" in span.name for span in EXPORTER.get_finished_spans()))
    spans = {span.name: span for span in EXPORTER.get_finished_spans()}
    root = spans.pop("POST /v1/completions")
    assert set(spans) == {"resolve", "fetch", "read", "place", "queue", "generate"}
    ends = [spans[name].end_time for name in ("resolve", "fetch", "read", "place", "generate")]
    assert ends == sorted(ends)
    assert root.start_time <= spans["resolve"].start_time
    assert root.end_time >= ends[-1]
    EXPORTER.clear()
    assert ask(server, "white") == 200
    wait_until(lambda: any("POST" in span.name for span in EXPORTER.get_finished_spans()))
    warm = {span.name for span in EXPORTER.get_finished_spans()}
    assert warm == {"POST /v1/completions", "queue", "generate"}


def test_a_queue_behind_an_adapter_is_seen(server: RunningServer) -> None:
    threads = [
        threading.Thread(target=ask, args=(server, name), kwargs={"max_tokens": 100, "n": 2})
        for name in ("red", "green")
    ]
    for thread in threads:
        thread.start()
    waiting: set[str] = set()
    while not waiting & {"red", "green"} and any(thread.is_alive() for thread in threads):
        waiting |= Scrape.of(server).labels("lora_requests_info", "waiting_lora_adapters")
    for thread in threads:
        thread.join()
    assert waiting & {"red", "green"}
