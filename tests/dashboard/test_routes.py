from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import ClientDisconnect

from loramux.server.access.caller import ANYBODY, Caller
from loramux.server.access.keyring import Keyring
from loramux.server.app import build_app
from loramux.server.dashboard import watchers
from loramux.server.dashboard.snapshot import MAX_ROWS, loads_state, whole_state
from loramux.server.state import ServerState
from tests.dashboard.engine import engine_of, info, state_with_dashboard
from tests.server.conftest import FolderResolver
from tests.server.running_server import RunningServer, wait_until


@pytest.fixture
def http(shelf_server: RunningServer) -> Iterator[httpx.Client]:
    engine_of(shelf_server).infos = []
    with shelf_server.http() as client:
        yield client


def ask(http: httpx.Client, model: str) -> httpx.Response:
    return http.post("/v1/completions", json={"model": model, "prompt": "abc", "max_tokens": 5})


def test_the_page_is_only_files_and_allows_nothing_else(http: httpx.Client) -> None:
    page = http.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "<script>" not in page.text
    assert "style=" not in page.text
    for path in ("dashboard/main.js", "dashboard/base.css", "dashboard/icon.svg"):
        answer = http.get(f"/{path}")
        assert answer.status_code == 200
        assert "//cdn" not in answer.text
    again = http.get("/", headers={"if-none-match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path", ["/dashboard/../activity.py", "/dashboard/%2e%2e/routes.py", "/dashboard/x.js"]
)
def test_no_other_file_is_to_be_had(http: httpx.Client, path: str) -> None:
    assert http.get(path).status_code == 404


def test_the_page_takes_no_post(http: httpx.Client) -> None:
    assert http.post("/").status_code == 405


def test_without_a_dashboard_there_is_nothing(folder: Path) -> None:
    state = replace(state_with_dashboard(FolderResolver(folder)), activity=None)
    transport = httpx.ASGITransport(build_app(state))

    async def statuses() -> list[int]:
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            paths = ("/", "/dashboard/main.js", "/dashboard/state", "/dashboard/events")
            return [(await client.get(path)).status_code for path in paths]

    assert asyncio.run(statuses()) == [404] * 4
    state.tokenizer.close()


def test_a_key_for_inference_sees_the_page_and_none_of_its_data(
    folder: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text('[[keys]]\nname = "team"\nkey = "tenant"\nrole = "infer"\n')
    keys.chmod(0o600)
    state = replace(state_with_dashboard(FolderResolver(folder)), keyring=Keyring(file=keys))
    transport = httpx.ASGITransport(build_app(state))
    headers = {"authorization": "Bearer tenant"}

    async def statuses() -> list[int]:
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            paths = ("/", "/v1/models", "/dashboard/state", "/dashboard/events")
            return [(await client.get(path, headers=headers)).status_code for path in paths]

    assert asyncio.run(statuses()) == [200, 200, 403, 403]
    state.tokenizer.close()


async def until_keys_are_read(state: ServerState, caller: Caller) -> str:
    """What a watcher is sent who does not come back."""
    assert state.activity is not None
    sent = b""
    async for event in watchers.events(state, state.activity, caller):
        sent += event
        state.keyring.reload()
    return sent.decode()


def test_an_operator_with_patterns_sees_no_other_names(folder: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(
        '[[keys]]\nname = "ops"\nkey = "key"\nrole = "admin"\nadapters = ["team-a/*"]\n'
    )
    keys.chmod(0o600)
    state = replace(state_with_dashboard(FolderResolver(folder)), keyring=Keyring(file=keys))
    same_bytes = replace(info("team-a/x", 1), path="/srv/adapters/team-b/x")
    state.engine._engine.infos = [same_bytes, info("team-b/y", 2)]
    assert state.activity is not None
    with state.activity.loads.loading("team-b/y"), state.activity.loads.loading("team-a/x") as own:
        own.append(info("team-a/x", 1))
        caller = state.keyring.caller(b"key")
        assert caller is not None
        shown = whole_state(state, state.activity, caller)
        told = loads_state(state.activity.loads, caller)
        streamed = asyncio.run(until_keys_are_read(state, caller))
    assert [row["name"] for row in shown["adapters"]] == ["team-a/x"]
    assert [load["name"] for load in told["under_way"]] == ["team-a/x"]
    assert "team-b" not in json.dumps([shown, told, streamed])
    assert sum(tier["adapters"] for tier in shown["tiers"].values()) == 2
    state.tokenizer.close()


def test_a_request_counts_for_its_adapter(
    http: httpx.Client, shelf_server: RunningServer, folder: Path
) -> None:
    (folder / "counted").mkdir()
    began = time.monotonic()
    for _ in range(3):
        assert ask(http, "counted").status_code == 200
    ask(http, "base")
    engine_of(shelf_server).infos = [info("idle", 1), info("counted", 2)]
    state = http.get("/dashboard/state").json()
    first, second = state["adapters"]
    assert (first["name"], first["hits"], first["found_by"]) == ("counted", 3, "folder")
    assert 0 <= first["idle_seconds"] <= time.monotonic() - began
    assert "resolve" in first["load_seconds"]
    assert (second["name"], second["hits"], second["idle_seconds"]) == ("idle", 0, None)
    assert state["tiers"]["host"] == {"adapters": 1, "num_bytes": second["num_bytes"]}
    assert state["base_hits"] >= 1
    assert state["now"]["kv_cache_use"] == 0.25
    (load,) = [load for load in state["loads"]["ended"] if load["name"] == "counted"]
    assert load["stage"] == "loaded"


def test_gaps_of_a_stream_are_measured(http: httpx.Client, shelf_server: RunningServer) -> None:
    engine_of(shelf_server).token_seconds = 0.02
    body = {"model": "base", "prompt": "abc", "max_tokens": 10, "stream": True}
    began = time.monotonic()
    assert http.post("/v1/completions", json=body).status_code == 200
    elapsed = time.monotonic() - began
    engine_of(shelf_server).token_seconds = 0.0
    figures = http.get("/dashboard/state").json()["now"]["last_minute"]
    assert figures["tokens"] >= 10
    assert 0.015 < figures["p99"] < 1.1 * elapsed


def test_an_unknown_name_is_counted(http: httpx.Client) -> None:
    before = http.get("/dashboard/state").json()["loads"]["num_unknown_names"]
    assert ask(http, "nobody").status_code == 404
    assert http.get("/dashboard/state").json()["loads"]["num_unknown_names"] == before + 1


def test_thousands_of_adapters_and_names_without_utf8(
    http: httpx.Client, shelf_server: RunningServer
) -> None:
    strange = info("name-\udc80" + "x" * 5000)
    engine_of(shelf_server).infos = [strange, *(info(f"a{n}", n) for n in range(1, 2000))]
    state = http.get("/dashboard/state").json()
    assert len(state["adapters"]) == MAX_ROWS
    assert state["num_adapters"] == 2000
    assert sum(tier["adapters"] for tier in state["tiers"].values()) == 2000
    assert len(state["adapters"][0]["name"]) < 600


def test_events_tell_of_a_load_without_being_asked(http: httpx.Client, folder: Path) -> None:
    (folder / "fresh").mkdir()
    with http.stream("GET", "/dashboard/events") as events:
        assert events.headers["content-type"].startswith("text/event-stream")
        lines = events.iter_lines()
        assert next(lines) == "event: loads"
        ask(http, "fresh")
        names: set[str] = set()
        while "fresh" not in names:
            line = next(lines)
            if line.startswith("data: "):
                ended = json.loads(line[6:]).get("ended", [])
                names |= {load["name"] for load in ended}


def test_watchers_are_bounded_and_give_their_places_back(
    http: httpx.Client, shelf_server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchers, "MAX_WATCHERS", 1)
    activity = shelf_server.state.activity
    assert activity is not None
    wait_until(lambda: activity.num_watchers == 0)
    with http.stream("GET", "/dashboard/events"):
        refused = http.get("/dashboard/events")
    assert refused.status_code == 503
    assert "retry-after" in refused.headers
    wait_until(lambda: activity.num_watchers == 0)


def test_a_client_that_takes_nothing_is_dropped(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchers, "PATIENCE_SECONDS", 0.05)
    state = state_with_dashboard(FolderResolver(folder))
    assert state.activity is not None
    sent: list[str] = []

    async def never() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message["type"])
        if message.get("body"):
            await asyncio.Event().wait()

    async def watch() -> None:
        response = watchers.watch(state, state.activity, ANYBODY)
        with pytest.raises(ClientDisconnect):
            await response({"type": "http", "asgi": {"spec_version": "2.4"}}, never, send)

    asyncio.run(watch())
    assert sent == ["http.response.start", "http.response.body"]
    assert state.activity.num_watchers == 0
    state.tokenizer.close()
