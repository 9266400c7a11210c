"""How many sequences one request may ask for, and all requests together."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from loramux.errors import InvalidRequestError
from loramux.server.serve_options import ServeOptions
from tests.server.conftest import FolderResolver, state_around
from tests.server.fake_engine import FakeEngine
from tests.server.running_server import RunningServer, running, wait_until
from tests.server.test_disconnect import raw_request


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with four places."""
    resolver = FolderResolver(tmp_path_factory.mktemp("adapters"))
    with running(state_around(FakeEngine(), resolver, max_queued_requests=4)) as server:
        yield server


@pytest.fixture
def busy(narrow: RunningServer) -> RunningServer:
    narrow.engine.__init__()
    return narrow


def complete(server: RunningServer, **fields: Any) -> httpx.Response:
    with server.http() as client:
        body = {"prompt": "ab", "max_tokens": 2, **fields}
        return client.post("/v1/completions", json=body)


def chat(server: RunningServer) -> httpx.Response:
    with server.http() as client:
        body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
        return client.post("/v1/chat/completions", json=body)


def test_prompts_times_n_is_bounded(server: RunningServer) -> None:
    response = complete(server, prompt=["ab"] * 17, n=128)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "n"
    assert "2176 sequences" in error["message"]
    assert "2048" in error["message"]
    assert server.engine.served == []
    assert complete(server, prompt=["a"] * 2048, max_tokens=1).status_code == 200


def test_more_than_there_will_ever_be_places_is_no_use_trying_again(busy: RunningServer) -> None:
    assert complete(busy, n=4).status_code == 200
    assert complete(busy, n=5).status_code == 400


@pytest.mark.parametrize("stream", [False, True])
def test_over_the_limit_clients_are_told_to_come_back(busy: RunningServer, stream: bool) -> None:
    busy.engine.is_held = True
    fields = {"prompt": ["ab", "cd"], "n": 2, "max_tokens": 20, "stream": stream}
    statuses: list[int] = []
    running = threading.Thread(target=lambda: statuses.append(complete(busy, **fields).status_code))
    running.start()
    wait_until(lambda: busy.state.queue.in_flight == 4)
    for refused in (complete(busy), chat(busy)):
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["type"] == "RateLimitError"
    busy.engine.is_held = False
    running.join()
    assert statuses == [200]
    wait_until(lambda: busy.state.queue.in_flight == 0)
    assert complete(busy).status_code == chat(busy).status_code == 200


@pytest.mark.parametrize("fields", [{"n": 0}, {"n": -3}, {"model": "nobody"}, {"max_tokens": 9999}])
def test_a_request_that_fails_gives_its_places_back(
    busy: RunningServer, fields: dict[str, Any]
) -> None:
    assert complete(busy, **fields).status_code in (400, 404)
    wait_until(lambda: busy.state.queue.in_flight == 0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_gives_its_places_back(busy: RunningServer, stream: bool) -> None:
    busy.engine.is_held = True
    with raw_request(busy, {"prompt": "ab", "n": 4, "max_tokens": 50, "stream": stream}):
        wait_until(lambda: busy.state.queue.in_flight == 4)
    wait_until(lambda: busy.state.queue.in_flight == 0)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"api_keys": ("",)}, "--api-key was given an empty key"),
        ({"api_keys": ("good", "  ")}, "--api-key was given an empty key"),
        ({"max_queued_requests": 0}, "--max-queued-requests must be at least 1, got 0"),
        ({"max_body_bytes": 0}, "--max-body-bytes must be at least 1, got 0"),
        ({"shutdown_seconds": -1}, "--shutdown-seconds must be at least 0, got -1"),
    ],
)
def test_options_that_cannot_be_meant(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says):
        ServeOptions(**fields)


def test_an_unset_variable_as_key_ends_the_start(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from loramux.cli import main

    monkeypatch.setenv("LORAMUX_API_KEY", "")
    assert main(["serve", str(tmp_path), "--api-key", ""]) != 0
    assert "--api-key was given an empty key" in capsys.readouterr().err


def test_an_empty_variable_is_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    from loramux.cli import main
    from loramux.server import launch

    started: list[ServeOptions] = []
    monkeypatch.setattr(launch, "serve", lambda args, options: started.append(options))
    monkeypatch.setenv("LORAMUX_API_KEY", "")
    assert main(["serve", "m", "--max-queued-requests", "7"]) == 0
    assert started == [ServeOptions(max_queued_requests=7)]
