"""Log lines: one for each request, as text or JSON, with its id and without its secrets."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loramux.cli import main
from loramux.observability.log_lines import REQUEST_ID, JsonLines, TextLines
from loramux.server.access.keyring import Keyring
from loramux.server.dashboard.activity import Activity
from tests.server.conftest import FolderResolver, state_around
from tests.server.fake_engine import FakeEngine
from tests.server.running_server import RunningServer, running, wait_until


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Lines as JSON, as they would be written."""
    caplog.set_level(logging.INFO, "loramux")
    caplog.handler.setFormatter(JsonLines())
    return caplog


def access_line(lines: pytest.LogCaptureFixture, request_id: str) -> dict[str, object]:
    def found() -> list[dict[str, object]]:
        parsed = [json.loads(line) for line in lines.text.splitlines()]
        return [
            line
            for line in parsed
            if line["logger"] == "loramux.access" and line.get("request_id") == request_id
        ]

    wait_until(found)
    (line,) = found()
    return line


def test_one_line_says_what_a_request_was(
    server: RunningServer, adapter: str, lines: pytest.LogCaptureFixture
) -> None:
    with server.http() as client:
        began = time.monotonic()
        body = {"model": adapter, "prompt": "my private prompt", "max_tokens": 3, "stream": True}
        response = client.post("/v1/completions", json=body, headers={"x-request-id": "abc-1"})
    assert response.headers["x-request-id"] == "abc-1"
    line = access_line(lines, "abc-1")
    asked = time.monotonic() - began
    assert line["method"] == "POST"
    assert line["route"] == "/v1/completions"
    assert line["status"] == 200
    assert line["model"] == adapter
    assert line["adapter"] == response.headers["x-loramux-adapter-digest"]
    assert (line["prompt_tokens"], line["completion_tokens"]) == (17, 3)
    assert line["finish_reason"] == "length"
    assert 0 < line["first_token_seconds"] <= line["seconds"] <= asked
    assert "private" not in lines.text
    assert "PRIVATE" not in lines.text


def test_every_line_of_a_request_carries_its_id(
    server: RunningServer, resolver: FolderResolver, lines: pytest.LogCaptureFixture
) -> None:
    resolver.error = RuntimeError("the store is on fire")
    with server.http() as client:
        given = client.post(
            "/v1/completions", json={"model": "x", "prompt": "a"}, headers={"x-request-id": "abc-2"}
        )
    assert given.status_code == 503
    access_line(lines, "abc-2")
    of_request = [json.loads(line) for line in lines.text.splitlines() if "abc-2" in line]
    assert {line["logger"] for line in of_request} >= {
        "loramux.access",
        "loramux.lora.resolve.failure_log",
    }
    failure = next(line for line in of_request if line["logger"].endswith("failure_log"))
    assert failure["level"] == "WARNING"
    assert "the store is on fire" in failure["exception"]


def test_refusals_and_quiet_routes(server: RunningServer, lines: pytest.LogCaptureFixture) -> None:
    with server.http() as client:
        for path in ("/health", "/metrics", "/v1/models"):
            client.get(path, headers={"x-request-id": f"of{path}"})
        body = {"model": "no\nsuch", "prompt": "a"}
        client.post("/v1/completions", json=body, headers={"x-request-id": "abc-3"})
    line = access_line(lines, "abc-3")
    assert (line["status"], line["refusal"]) == (404, "unknown_model")
    assert "model" not in line
    assert line["asked_for"] == r"'no\nsuch'"
    assert ", asked for 'no\\nsuch', refused: unknown_model" in str(line["message"])
    access_line(lines, "of/v1/models")
    assert "of/health" not in lines.text
    assert "of/metrics" not in lines.text


def test_a_refusal_names_the_route_it_kept_closed(
    resolver: FolderResolver, lines: pytest.LogCaptureFixture
) -> None:
    paths = {"/v1/models/a/b": "/v1/models/{name:path}", "/metrics": "/metrics", "/": "/"}
    paths |= {"/openapi.json": "/openapi.json", "/nowhere": "none", "/v1/completions": None}
    state = state_around(FakeEngine(), resolver, keyring=Keyring(["k"]), activity=Activity())
    with running(state) as server, server.http() as client:
        for number, (path, template) in enumerate(paths.items()):
            client.get(path, headers={"x-request-id": f"of-{number}"})
            assert access_line(lines, f"of-{number}")["route"] == (template or path)
    routes = {route for _, route, _ in state.metrics.answers}
    assert routes == {template or path for path, template in paths.items()}


def test_a_path_that_leads_nowhere_is_quoted_and_cut_short(
    server: RunningServer, lines: pytest.LogCaptureFixture
) -> None:
    with server.http() as client:
        client.get("/v1/modles?key=private", headers={"x-request-id": "typo"})
        client.get("/%0aGET%20/fake/" + 200 * "x", headers={"x-request-id": "hostile"})
        client.get("/v1/models/unknown", headers={"x-request-id": "known"})
    typo, hostile = access_line(lines, "typo"), access_line(lines, "hostile")
    assert (typo["route"], typo["path"], typo["status"]) == ("none", "'/v1/modles'", 404)
    assert str(typo["message"]).startswith("GET '/v1/modles' (no such route) 404 in ")
    assert str(hostile["path"]).startswith(r"'/\nGET /fake/xxx")
    assert len(str(hostile["path"])) <= 100
    assert "private" not in lines.text
    assert "path" not in access_line(lines, "known")


def test_no_line_where_none_is_wanted_and_never_a_key(
    resolver: FolderResolver, lines: pytest.LogCaptureFixture
) -> None:
    for access_log in (False, True):
        state = state_around(
            FakeEngine(), resolver, keyring=Keyring(["secret-key"]), access_log=access_log
        )
        with running(state) as server, server.http() as client:
            for key in ("secret-key", "wrong-secret-key"):
                client.get("/v1/models", headers={"authorization": f"Bearer {key}"})
        assert lines.text.count('"loramux.access"') == 2 * access_log
    assert "secret-key" not in lines.text


def test_text_lines_end_with_the_id_and_keep_tracebacks_apart() -> None:
    record = logging.LogRecord("loramux.x", logging.INFO, "f", 1, "hello %s", ("you",), None)
    token = REQUEST_ID.set("abc-4")
    try:
        assert TextLines().format(record).endswith("INFO loramux.x: hello you [abc-4]")
    finally:
        REQUEST_ID.reset(token)
    assert TextLines().format(record).endswith("hello you")


def test_a_format_that_does_not_exist(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAMUX_LOG_FORMAT", "xml")
    assert main(["serve", "/no/such/model"]) == 1
    assert "LORAMUX_LOG_FORMAT is 'xml'; set it to text or json" in capsys.readouterr().err


def test_a_process_writes_json_and_nothing_else(tmp_path: Path) -> None:
    """Also warnings of Python and of libraries."""
    program = (
        "import logging, warnings; from loramux.logger import configure_logging, line_for_stdout;"
        "print(line_for_stdout('ready: x', 'loramux.x'));"
        "configure_logging(log_format='json'); warnings.warn('old');"
        "logging.getLogger('loramux.x').info('new %d', 1);"
        "logging.getLogger('uvicorn.error').error('broken\\nline');"
        "from huggingface_hub.utils import logging as hub;"
        "hub.get_logger('huggingface_hub.x').warning('once');"
        "print(line_for_stdout('ready: x', 'loramux.x'))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=240, check=True,
        env=dict(os.environ), cwd=tmp_path,
    )  # fmt: skip
    parsed = [json.loads(line) for line in result.stderr.splitlines()]
    loggers = ["py.warnings", "loramux.x", "uvicorn.error", "huggingface_hub.x"]
    assert [line["logger"] for line in parsed] == loggers
    assert parsed[1]["message"] == "new 1"
    assert parsed[2]["message"] == "broken\nline"
    before, after = result.stdout.splitlines()
    assert before == "ready: x"
    assert (json.loads(after)["message"], json.loads(after)["level"]) == ("ready: x", "INFO")
