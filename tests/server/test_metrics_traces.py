"""Traces: one span for a request, one for each stage of it, in the trace of whoever asked."""

from __future__ import annotations

import http.server
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from loramux.errors import LoramuxError
from loramux.observability.tracing import ENDPOINT_VARIABLES, RequestTracer, tracer_for
from loramux.server.metrics.record import RequestRecord
from loramux.server.metrics.spans import stages_of
from tests.server.conftest import FolderResolver, state_around
from tests.server.fake_engine import FakeEngine
from tests.server.running_server import RunningServer, running, wait_until

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"


class StagedEngine(FakeEngine):
    """Says of every adapter that it was fetched, read and placed a moment ago."""

    def adapter_stages(self, digest: str) -> dict[str, tuple[float, float]]:
        now = time.monotonic()
        return {"fetch": (now - 3e-3, now - 2e-3), "read": (now - 2e-3, now - 1e-3)}


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def traced(resolver: FolderResolver, exporter: InMemorySpanExporter) -> Iterator[RunningServer]:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with running(state_around(StagedEngine(), resolver, tracer=RequestTracer(provider))) as server:
        yield server


def spans_of(exporter: InMemorySpanExporter, route: str) -> dict[str, ReadableSpan]:
    wait_until(lambda: any(route in span.name for span in exporter.get_finished_spans()))
    return {span.name: span for span in exporter.get_finished_spans()}


def test_a_cold_adapter_shows_its_stages_in_the_callers_trace(
    traced: RunningServer, exporter: InMemorySpanExporter, folder: Path
) -> None:
    (folder / "traced").mkdir()
    traced.engine.load_seconds = 0.01
    with traced.http() as client:
        body = {"model": "traced", "prompt": "abcd", "max_tokens": 3}
        headers = {"traceparent": PARENT, "x-request-id": "abc-5"}
        assert client.post("/v1/completions", json=body, headers=headers).status_code == 200
    spans = spans_of(exporter, "/v1/completions")
    root = spans["POST /v1/completions"]
    assert {f"{span.context.trace_id:032x}" for span in spans.values()} == {TRACE_ID}
    assert f"{root.parent.span_id:016x}" == "00f067aa0ba902b7"
    assert set(spans) == {
        "POST /v1/completions", "resolve", "fetch", "read", "queue", "generate",
    }  # fmt: skip
    for name, span in spans.items():
        assert root.start_time <= span.start_time <= span.end_time <= root.end_time
        assert name == root.name or span.parent.span_id == root.context.span_id
    assert root.attributes["gen_ai.request.model"] == "traced"
    assert root.attributes["gen_ai.usage.output_tokens"] == 3
    assert root.attributes["http.response.status_code"] == 200
    assert root.attributes["loramux.request_id"] == "abc-5"
    assert "abcd" not in str([dict(span.attributes or {}) for span in spans.values()])


def test_an_unknown_name_and_a_broken_parent(
    traced: RunningServer, exporter: InMemorySpanExporter
) -> None:
    with traced.http() as client:
        body = {"model": "nobody", "prompt": "ab"}
        headers = {"traceparent": "00-nonsense"}
        assert client.post("/v1/completions", json=body, headers=headers).status_code == 404
    spans = spans_of(exporter, "/v1/completions")
    assert set(spans) == {"POST /v1/completions", "resolve"}
    assert spans["POST /v1/completions"].parent is None
    assert spans["POST /v1/completions"].attributes["loramux.refusal"] == "unknown_model"


def test_what_others_waited_for_is_no_stage_of_this_request() -> None:
    record = RequestRecord("POST", began=100.0)
    record.ended = 101.0
    record.lookup = 100.1, 100.6
    before, during, after = (90.0, 91.0), (99.5, 100.5), (100.9, 101.5)
    stages = dict(stages_of(record, {"fetch": before, "read": during, "place": after}))
    assert stages == {"resolve": (100.1, 100.1), "read": (100.0, 100.5)}


def test_traces_reach_a_collector(resolver: FolderResolver) -> None:
    received: list[tuple[str, bytes]] = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Collector) as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        try:
            tracer = tracer_for(f"http://127.0.0.1:{collector.server_port}")
            assert tracer is not None
            with running(state_around(FakeEngine(), resolver, tracer=tracer)) as server:
                with server.http() as client:
                    client.get("/v1/models")
                wait_until(lambda: server.state.metrics.answers)
            tracer.close()
        finally:
            collector.shutdown()
            thread.join()
    ((path, content),) = received
    assert path == "/v1/traces"
    assert b"GET /v1/models" in content
    assert b"loramux" in content


def test_a_collector_that_is_away_holds_nobody_up(
    resolver: FolderResolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "600")  # how long it would try again
    tracer = tracer_for("http://127.0.0.1:9")
    assert tracer is not None
    with running(state_around(FakeEngine(), resolver, tracer=tracer)) as server:
        with server.http() as client:
            assert client.get("/v1/models").status_code == 200
        wait_until(lambda: server.state.metrics.answers)
    began = time.monotonic()
    tracer.close(seconds=0.2)
    assert time.monotonic() - began < 10  # of 30, for which the SDK waits by itself


def test_nobody_asks_for_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENDPOINT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert tracer_for(None) is None
    monkeypatch.setenv(ENDPOINT_VARIABLES[1], "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert tracer_for(None) is None


def test_the_sdk_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, OTLPSpanExporter.__module__.rsplit(".", 1)[0], None)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(
        LoramuxError, match=r"--otlp-traces-endpoint.*pip install 'loramux\[otel\]'"
    ):
        tracer_for("http://127.0.0.1:1")
    monkeypatch.setenv(ENDPOINT_VARIABLES[1], "http://127.0.0.1:1")
    assert tracer_for(None) is None
    assert "Traces were asked for with OTEL_EXPORTER_OTLP_ENDPOINT" in caplog.text
