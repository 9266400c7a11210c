"""``/metrics`` in front of an engine without a model: what is counted, and what names it shows."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from openai import NotFoundError
from prometheus_client import REGISTRY
from prometheus_client.openmetrics import parser as openmetrics

from loramux.errors import AdapterRefusedError, AdapterUnavailableError
from loramux.lora.request import LoRARequest
from loramux.server.access.keyring import Keyring
from loramux.server.metrics.callers import MAX_CALLERS, OTHERS
from loramux.server.metrics.model_series import MAX_SERIES, ModelTable
from loramux.server.metrics.record import RequestRecord
from loramux.server.metrics.server_metrics import ServerMetrics
from tests.server.conftest import FolderResolver, state_around
from tests.server.fake_engine import FakeEngine
from tests.server.running_server import RunningServer, running, wait_until
from tests.server.scraping import Scrape
from tests.server.test_disconnect import raw_request


def completion(server: RunningServer, **body: object) -> int:
    with server.http() as client:
        return client.post("/v1/completions", json={"prompt": "abcd", **body}).status_code


def test_tokens_and_times_of_a_stream(server: RunningServer) -> None:
    before = Scrape.of(server)
    server.engine.token_seconds = 0.005
    stream = server.openai().completions.create(
        model="tiny", prompt="abcd", max_tokens=6, stream=True
    )
    assert list(stream)
    after = Scrape.of(server)

    def grown(name: str) -> float:
        return after.value(name, model_name="base") - before.value(name, model_name="base")

    assert grown("prompt_tokens_total") == 4
    assert grown("generation_tokens_total") == 6
    assert grown("request_success_total") == 1
    assert grown("time_to_first_token_seconds_count") == 1
    assert grown("time_to_first_token_seconds_sum") >= 0.9 * 0.005
    assert grown("inter_token_latency_seconds_count") == 5
    assert grown("e2e_request_latency_seconds_count") == 1
    tokens, request = (
        grown(f"{name}_seconds_sum") for name in ("inter_token_latency", "e2e_request_latency")
    )
    assert 0.9 * 0.025 <= tokens <= request


def test_several_prompts_and_completions_that_are_not_streamed(server: RunningServer) -> None:
    before = Scrape.of(server)
    assert completion(server, prompt=["abcd", "ef"], n=2, max_tokens=3) == 200
    after = Scrape.of(server)
    for name, expected in {
        "prompt_tokens_total": 6,
        "generation_tokens_total": 12,
        "request_success_total": 4,
        "inter_token_latency_seconds_count": 0,
        "e2e_request_latency_seconds_count": 1,
    }.items():
        assert after.value(name) - before.value(name) == expected, name


def test_an_adapter_has_a_series_while_it_is_loaded(server: RunningServer, adapter: str) -> None:
    assert adapter not in Scrape.of(server).labels("prompt_tokens_total", "model_name")
    assert completion(server, model=adapter, max_tokens=2) == 200
    shown = Scrape.of(server)
    assert shown.value("generation_tokens_total", model_name=adapter) == 2
    assert shown.value("lora_adapter_loaded", adapter_name=adapter, level="host") == 1
    server.engine.loads.clear()  # it has left the memory
    assert adapter not in Scrape.of(server).labels("prompt_tokens_total", "model_name")


def test_sums_over_all_models_stay_when_an_adapter_goes(
    server: RunningServer, adapter: str
) -> None:
    """Series that come and go with adapters have no rate: each begins with its first count."""
    before = Scrape.of(server)
    for _ in range(3):
        assert completion(server, model=adapter, max_tokens=2, stream=True) == 200
        assert Scrape.of(server).value("generation_tokens_total", model_name=adapter) == 2
        loads, server.engine.loads = server.engine.loads, []
        Scrape.of(server)
        server.engine.loads = loads
    assert completion(server, model="base", max_tokens=4, stream=True) == 200
    after = Scrape.of(server)
    for name, expected in {
        "server_prompt_tokens_total": 16,
        "server_generation_tokens_total": 10,
        "server_request_success_total": 4,
        "server_time_to_first_token_seconds_count": 4,
        "server_inter_token_latency_seconds_count": 6,
        "server_e2e_request_latency_seconds_count": 4,
    }.items():
        assert after.value(name) - before.value(name) == expected, name


def test_a_request_is_counted_whose_adapter_was_away_at_a_scrape(
    server: RunningServer, adapter: str
) -> None:
    asked = {"model": adapter, "max_tokens": 3}
    assert completion(server, **asked) == 200
    before = Scrape.of(server)
    server.engine.is_held = True
    thread = threading.Thread(target=completion, args=(server,), kwargs=asked)
    thread.start()
    wait_until(lambda: server.engine.running)
    server.engine.loads, loads = [], server.engine.loads  # it waits, and others took its memory
    Scrape.of(server)
    server.engine.loads, server.engine.is_held = loads, False
    thread.join()
    after = Scrape.of(server)
    name = "server_generation_tokens_total"
    assert after.value(name) - before.value(name) == 3
    assert after.value("generation_tokens_total", model_name=adapter) == 3


def test_what_may_happen_begins_at_zero(resolver: FolderResolver) -> None:
    """The first refusal of its kind is none to ``rate`` where the series begins with it."""
    with running(state_around(FakeEngine(), resolver)) as server:
        shown = Scrape.of(server)
    assert {"engine_ended", "internal", "queue_full"} <= shown.labels(
        "request_refusals_total", "reason"
    )
    assert shown.labels("server_time_to_first_token_seconds_count", "adapter") == {
        "none", "warm", "cold",
    }  # fmt: skip
    assert shown.labels("server_request_success_total", "finished_reason") >= {"stop", "error"}
    assert shown.value("request_refusals_total") == 0


@pytest.mark.parametrize(
    ("prepare", "body", "reason"),
    [
        (None, {"model": "nobody"}, "unknown_model"),
        (None, {"max_tokens": -1}, "invalid_request"),
        (None, {"prompt": "x" * 70_000}, "body_too_large"),
        (AdapterRefusedError("rank 64 is too high."), {}, "adapter_refused"),
        (AdapterUnavailableError("the store is away."), {}, "adapter_unavailable"),
    ],
)
def test_refusals_by_reason(
    server: RunningServer,
    folder: Path,
    adapter: str,
    prepare: Exception | None,
    body: dict[str, object],
    reason: str,
) -> None:
    if prepare is not None:
        server.engine.load_failures[str(folder / adapter)] = prepare
        body = {"model": adapter}
    before = Scrape.of(server).value("request_refusals_total", reason=reason)
    assert completion(server, **body) >= 400
    assert Scrape.of(server).value("request_refusals_total", reason=reason) == before + 1


def test_a_stream_that_fails_is_a_refusal_though_its_status_was_200(server: RunningServer) -> None:
    server.engine.failures["abcd"] = AdapterRefusedError("the adapter makes NaN.")
    server.engine.fails_after = 2
    before = Scrape.of(server)
    assert completion(server, stream=True, max_tokens=9) == 200
    after = Scrape.of(server)
    assert after.value("request_refusals_total", reason="adapter_refused") == 1 + before.value(
        "request_refusals_total", reason="adapter_refused"
    )
    assert after.value("request_success_total", finished_reason="error") == 1 + before.value(
        "request_success_total", finished_reason="error"
    )


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves(server: RunningServer, stream: bool) -> None:
    server.engine.token_seconds = 0.02
    before = Scrape.of(server)
    connection = raw_request(server, {"prompt": "ab", "max_tokens": 200, "stream": stream})
    wait_until(lambda: server.engine.running)
    if stream:
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
    server.engine.is_held = True
    connection.close()
    wait_until(lambda: not server.engine.running)
    name, gone = "request_success_total", {"finished_reason": "abort"}
    wait_until(lambda: Scrape.of(server).value(name, **gone) == before.value(name, **gone) + 1)
    after = Scrape.of(server)
    status = "200" if stream else "499"
    answers = "http_requests_total", {"handler": "/v1/completions", "status": status}
    assert after.value(answers[0], **answers[1]) == before.value(answers[0], **answers[1]) + 1
    assert after.value("request_refusals_total") == before.value("request_refusals_total")


NUM_UNKNOWN = 1000
"""Far more than any bound on labels."""


def test_unknown_names_and_paths_leave_no_trace(server: RunningServer) -> None:
    before = Scrape.of(server)
    url = httpx.URL(server.url)
    connection = http.client.HTTPConnection(url.host, url.port)
    for number in range(NUM_UNKNOWN):
        body = json.dumps({"model": f"unknown-{number}", "prompt": "ab"})
        assert answer(connection, "POST", "/v1/completions", body) == 404
        if number % 10 == 0:
            # A method that httptools does not know ends there already.
            assert answer(connection, f"BREW{number}", f"/nowhere/{number}", "") in {400, 404}
            assert answer(connection, "GET", f"/nowhere/{number}", "") == 404
    connection.close()
    after = Scrape.of(server)
    # One sample for the reason or two, the route, and nothing else.
    assert len(after.samples) <= len(before.samples) + 6
    assert not [
        s for s in after.samples for v in s.labels.values() if "unknown-" in v or "/no" in v
    ]
    unknown = after.value("request_refusals_total", reason="unknown_model")
    assert unknown - before.value("request_refusals_total", reason="unknown_model") == NUM_UNKNOWN


def answer(connection: http.client.HTTPConnection, method: str, path: str, body: str) -> int:
    """The status; httpx would take twice as long for thousands of requests."""
    connection.request(method, path, body, {"content-type": "application/json"})
    response = connection.getresponse()
    response.read()
    return response.status


def test_more_adapters_than_series() -> None:
    table = ModelTable(["base", "alias"])
    names = [f"adapter-{number}" for number in range(3 * MAX_SERIES)]
    for name in names:
        table.of(name).generation_tokens += 1
    table.of("alias").generation_tokens += 1
    shown = dict(table.shown(names))
    assert len(shown) == MAX_SERIES + 2
    assert shown["other"].generation_tokens == 2 * MAX_SERIES
    assert shown["base"].generation_tokens == 1
    assert set(dict(table.shown([]))) == {"base", "other"}


def test_more_adapters_in_memory_than_labels(server: RunningServer) -> None:
    server.engine.loads += [
        LoRARequest(f"loaded-{number}", 1, "/somewhere") for number in range(3 * MAX_SERIES)
    ]
    shown = Scrape.of(server).labels("lora_adapter_loaded", "adapter_name")
    assert len(shown) == MAX_SERIES
    assert f"loaded-{3 * MAX_SERIES - 1}" in shown


def test_a_name_that_means_two_adapters_is_one_series(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.engine.loads.append(LoRARequest("bot", 1, "/somewhere"))
    (info,) = [info for info in server.engine.adapter_infos() if info.name == "bot"]
    infos = [info, replace(info, digest="another caller's")]
    monkeypatch.setattr(server.engine, "adapter_infos", lambda: infos)
    shown = Scrape.of(server)
    assert shown.value("lora_adapter_loaded", adapter_name="bot") == 1
    assert shown.value("lora_adapters", tier="host") == 2


def test_what_no_scrape_has_seen_of_an_adapter_is_not_lost() -> None:
    table = ModelTable(["base"])
    table.of("short").generation_tokens += 5
    table.of("short").seconds["inter_token_latency"].observe(0.02)
    other = dict(table.shown([]))["other"]
    assert other.generation_tokens == 5
    assert other.seconds["inter_token_latency"].count == 1


def test_scraping_while_streams_run(server: RunningServer) -> None:
    server.engine.token_seconds = 0.002
    server.engine.is_held = True
    texts: list[str] = []

    def read() -> None:
        stream = server.openai().completions.create(
            model="base", prompt="abcd", max_tokens=100, stream=True
        )
        texts.append("".join(chunk.choices[0].text for chunk in stream))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(server.engine.running) == 4)
    seen = [Scrape.of(server).value("generation_tokens_total")]
    server.engine.is_held = False
    while any(thread.is_alive() for thread in threads):
        seen.append(Scrape.of(server).value("generation_tokens_total"))
    assert texts == ["abcd" * 25] * 4
    assert all(later >= earlier for earlier, later in itertools.pairwise(seen))


def test_the_registry_of_the_process_stays_as_it_was(server: RunningServer) -> None:
    Scrape.of(server)
    assert not [family.name for family in REGISTRY.collect() if family.name.startswith("loramux")]


@pytest.mark.parametrize("escaping", ["", ";escaping=underscores", ";escaping=allow-utf-8"])
def test_openmetrics_has_the_same_names(server: RunningServer, escaping: str) -> None:
    Scrape.of(server)  # a scrape is an answer, too, and the first one shows no other
    accept = f"application/openmetrics-text;version=1.0.0{escaping},text/plain;version=0.0.4;q=0.5"
    with server.http() as client:
        response = client.get("/metrics", headers={"accept": accept})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")
    samples = [
        sample.name
        for family in openmetrics.text_string_to_metric_families(response.text)
        for sample in family.samples
    ]
    assert samples == [sample.name for sample in Scrape.of(server).samples]


@pytest.mark.parametrize(("is_open", "status"), [(False, 401), (True, 200)])
def test_metrics_need_a_key_like_everything_else(
    resolver: FolderResolver, is_open: bool, status: int
) -> None:
    state = state_around(
        FakeEngine(), resolver, keyring=Keyring(["secret-key"]), metrics_without_key=is_open
    )
    with running(state) as server, server.http() as client:
        assert client.get("/metrics").status_code == status
        key = {"authorization": "Bearer secret-key"}
        shown = client.get("/metrics", headers=key)
        assert shown.status_code == 200
        assert "secret-key" not in shown.text
        assert client.get("/v1/models").status_code == 401


KEYS = """
[[keys]]
name = "ops"
key = "sk-ops"
role = "admin"
[[keys]]
name = "narrow"
key = "sk-narrow"
role = "admin"
adapters = ["mine"]
[[keys]]
name = "eager"
key = "sk-eager"
quota = { requests_per_second = 1 }
"""


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    (tmp_path / "keys.toml").write_text(KEYS)
    return Keyring(file=tmp_path / "keys.toml")


def test_answers_by_the_key_that_asked(resolver: FolderResolver, keyring: Keyring) -> None:
    def status(key: str) -> int:
        headers = {"authorization": f"Bearer {key}"}
        with server.http(headers=headers) as client:
            return client.post("/v1/completions", json={"prompt": "a"}).status_code

    with running(state_around(FakeEngine(), resolver, keyring=keyring)) as server:
        assert [status(key) for key in ("sk-eager", "sk-eager", "guessed")] == [200, 429, 401]
        full = Scrape.of(server, authorization="Bearer sk-ops")
        assert full.value("caller_requests_total", caller="eager", status="200") == 1
        assert full.value("caller_requests_total", caller="eager", status="429") == 1
        assert full.value("caller_requests_total", caller="(no key)", status="401") == 1
        narrow = Scrape.of(server, authorization="Bearer sk-narrow")
        assert narrow.labels("caller_requests_total", "caller") <= {"narrow"}


def test_who_reads_without_a_key_sees_nobodys_name(
    resolver: FolderResolver, keyring: Keyring
) -> None:
    state = state_around(FakeEngine(), resolver, keyring=keyring, metrics_without_key=True)
    with running(state) as server:
        with server.http(headers={"authorization": "Bearer sk-eager"}) as client:
            assert client.get("/v1/models").status_code == 200
        shown = Scrape.of(server)
    assert shown.value("http_requests_total", handler="/v1/models") == 1
    assert not shown.labels("caller_requests_total", "caller")


def test_more_keys_than_labels() -> None:
    metrics = ServerMetrics(["base"], lambda digest: {})
    for number in range(3 * MAX_CALLERS):
        metrics.end(RequestRecord("GET", status=200), "/", f"key-{number}")
    metrics.end(RequestRecord("GET", status=200), "/", "key-1")
    assert len(metrics.callers.by_name) == MAX_CALLERS + 2
    assert metrics.callers.by_name[OTHERS][200] == 2 * MAX_CALLERS
    assert metrics.callers.by_name["key-1"][200] == 2


def test_an_unknown_name_is_still_a_404(server: RunningServer) -> None:
    with pytest.raises(NotFoundError):
        server.openai().completions.create(model="nobody", prompt="ab")
