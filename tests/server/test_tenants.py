"""Two tenants and an operator at one server: what each can do, see and find out."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from loramux.errors import AdapterRefusedError
from loramux.lora.request import LoRARequest
from loramux.lora.resolver import LoRAResolver, ResolveContext
from loramux.server.access.keyring import Keyring
from loramux.server.adapters.allowed_paths import AllowedPaths
from loramux.server.http.errors import ApiError
from tests.server.conftest import state_around
from tests.server.fake_engine import MODEL, FakeEngine
from tests.server.running_server import RunningServer, running, wait_until

KEYS = """
[[keys]]
name = "team-a"
key = "sk-aaa"
adapters = ["team-a/*", "shared"]

[[keys]]
name = "team-b"
key = "sk-bbb"
adapters = ["team-b/*", "shared"]
quota = { concurrent_loads = 1, resident_adapters = 2 }

[[keys]]
name = "hasty"
key = "sk-hasty"
quota = { requests_per_second = 0.01 }

[[keys]]
name = "bulky"
key = "sk-bulky"
quota = { requests_per_second = 0.01 }

[[keys]]
name = "ops"
key = "sk-ops"
role = "admin"

[[keys]]
name = "ops-of-a"
key = "sk-ops-a"
role = "admin"
adapters = ["team-a/*"]
"""


class Everything(LoRAResolver):
    """Has every name there is, however it is written, and notes who asks."""

    def __init__(self) -> None:
        self.questions: list[tuple[str | None, str]] = []
        self.root = "/of"
        self.linked_names: dict[str, tuple[str, ...]] = {}

    async def resolve_lora(
        self, base_model_name: str, lora_name: str, context: ResolveContext | None = None
    ) -> LoRARequest | None:
        self.questions.append((context and context.caller, lora_name))
        path = f"{self.root}/{lora_name}"
        if "absent" in lora_name:
            return None
        linked_names = self.linked_names.get(lora_name, ())
        return LoRARequest(lora_name, 1, path, linked_names=linked_names)


@pytest.fixture(scope="module")
def resolver() -> Everything:
    return Everything()


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    path.write_text(KEYS)
    return path


@pytest.fixture(scope="module")
def server(resolver: Everything, keys_file: Path) -> Iterator[RunningServer]:
    state = state_around(
        FakeEngine(),
        resolver,
        keyring=Keyring(["sk-plain"], keys_file),
        allow_runtime_updates=True,
        allowed_paths=AllowedPaths.of(["/"]),
    )
    with running(state) as server:
        body = {"lora_name": "team-b/loaded", "lora_path": "/x"}
        loaded = ask(server, "sk-ops", "POST", "/v1/load_lora_adapter", body)
        assert loaded.status_code == 200
        assert complete(server, "sk-bbb", "team-b/found").status_code == 200
        yield server


@pytest.fixture(autouse=True)
def _questions(resolver: Everything, server: RunningServer) -> None:
    resolver.questions.clear()
    server.engine.loads.clear()


def ask(
    server: RunningServer, key: str, method: str, path: str, body: Any = None
) -> httpx.Response:
    with server.http(headers={"authorization": f"Bearer {key}"}) as client:
        return client.request(method, path, json=body)


def complete(server: RunningServer, key: str, model: str, **more: Any) -> httpx.Response:
    body = {"model": model, "prompt": "ab", "max_tokens": 1, **more}
    return ask(server, key, "POST", "/v1/completions", body)


CHAT = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
ROUTES = {
    "completions": complete,
    "stream": lambda s, k, name: complete(s, k, name, stream=True),
    "chat": lambda s, k, name: ask(s, k, "POST", "/v1/chat/completions", {"model": name, **CHAT}),
    "generate": lambda s, k, name: ask(
        s, k, "POST", "/generate", {"model": name, "prompt": "ab", "max_tokens": 1}
    ),
    "models": lambda s, k, name: ask(s, k, "GET", f"/v1/models/{quote(name, safe='')}"),
}
"""Every door through which a name leads to an adapter."""


def shape(response: httpx.Response, name: str) -> tuple[Any, ...]:
    """All that a client can tell apart, its own words left out."""
    headers = sorted(set(response.headers) - {"date", "x-request-id", "content-length"})
    return response.status_code, headers, response.text.replace(name, "NAME")


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", ["team-b/loaded", "team-b/found", "team-b/absent", "nobody's"])
def test_anothers_adapter_is_a_name_that_does_not_exist(
    server: RunningServer, resolver: Everything, route: str, name: str
) -> None:
    missing = ROUTES[route](server, "sk-aaa", "team-a/absent")
    resolver.questions.clear()
    answer = ROUTES[route](server, "sk-aaa", name)
    assert answer.status_code == 404
    assert shape(answer, name) == shape(missing, "team-a/absent")
    # Whether it exists cannot be told by the time either: nobody who knows is asked.
    assert (resolver.questions, server.engine.loads) == ([], [])


def test_nor_does_a_link_to_it_help(server: RunningServer, resolver: Everything) -> None:
    resolver.linked_names = {"team-a/link": ("shared", "team-b/found")}
    missing = complete(server, "sk-aaa", "team-a/absent")
    answer = complete(server, "sk-aaa", "team-a/link")
    assert shape(answer, "team-a/link") == shape(missing, "team-a/absent")
    assert server.engine.loads == []
    assert complete(server, "sk-ops", "team-a/link").status_code == 200
    resolver.linked_names = {"team-a/link": ("shared", "team-a/sql")}
    assert complete(server, "sk-aaa", "team-a/link").status_code == 200


@pytest.mark.parametrize("route", ["completions", "models"])
@pytest.mark.parametrize(
    "name",
    [
        "team-a/../team-b/found", "team-a/./../team-b/found", "team-a//../team-b/found",
        "team-a/..\\team-b\\found", "team-a/%2e%2e/team-b/found", "team-a/..%2fteam-b/found",
        "team-a/\uff0e\uff0e/team-b/found", "team\u2010b/found", "team-b\uff0ffound",
        "te\u0430m-b/found", "TEAM-B/found", " team-b/found", "team-b/found ", "team-b/found\u200b",
        "team-b/found\0", "team-b/foun\u0064\u0300", "*", "team-?/found", "team-a/..",
    ],
)  # fmt: skip
def test_no_way_of_writing_it_helps(
    server: RunningServer, resolver: Everything, route: str, name: str
) -> None:
    assert ROUTES[route](server, "sk-aaa", name).status_code == 404
    assert (resolver.questions, server.engine.loads) == ([], [])


@pytest.mark.parametrize(
    "path",
    ["team-a/../team-b/found", "team-a/%2e%2e/team-b/found", "/team-b/found", "./team-b/found"],
)
def test_nor_does_a_path_that_no_client_would_send(server: RunningServer, path: str) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        head = f"GET /v1/models/{path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        connection.sendall(f"{head}authorization: Bearer sk-aaa\r\n\r\n".encode())
        assert connection.makefile("rb").readline().split()[1] == b"404"


@pytest.mark.parametrize("name", ["team-a/x", "shared"])
def test_its_own_adapters_serve_a_tenant(
    server: RunningServer, resolver: Everything, name: str
) -> None:
    assert complete(server, "sk-aaa", name).status_code == 200
    assert resolver.questions == [("team-a", name)]


def test_lists_show_a_tenant_its_own(server: RunningServer) -> None:
    complete(server, "sk-aaa", "team-a/mine")
    for path, field in (("/v1/models", "id"), ("/v1/adapters", "name")):
        names = {
            key: {row[field] for row in ask(server, key, "GET", path).json()["data"]}
            for key in ("sk-aaa", "sk-bbb", "sk-ops")
        }
        assert "team-a/mine" in names["sk-aaa"]
        assert not any("team-b" in name for name in names["sk-aaa"])
        assert {"team-b/loaded", "team-b/found"} <= names["sk-bbb"]
        assert not any("team-a" in name for name in names["sk-bbb"])
        assert "team-b/loaded" in names["sk-ops"]


ADMIN_DOORS = [
    ("POST", "/v1/load_lora_adapter"),
    ("POST", "/v1/unload_lora_adapter"),
    ("DELETE", "/v1/adapters/team-b/found"),
    ("DELETE", "/v1/adapters/team-a/mine"),
    ("POST", "/v1/adapters/team-a/mine/prefetch"),
    ("POST", "/v1/adapters/team-b/found/pin"),
    ("DELETE", "/v1/adapters/no/such/name/pin"),
    ("POST", "/v1/adapters"),
    ("PUT", "/v1/adapters/x"),
    ("GET", "/metrics"),
    ("GET", "/metrics/"),
    ("GET", "/dashboard/state"),
    ("GET", "/dashboard/events"),
]


@pytest.mark.parametrize(("method", "path"), ADMIN_DOORS)
def test_a_tenant_stays_out_of_what_is_for_operators(
    server: RunningServer, method: str, path: str
) -> None:
    answer = ask(server, "sk-aaa", method, path, {})
    assert answer.status_code == 403
    assert answer.json()["error"]["type"] == "PermissionDeniedError"
    assert ask(server, "sk-ops", method, path, {}).status_code != 403
    assert ask(server, "sk-plain", method, path, {}).status_code != 403


@pytest.mark.parametrize("suffix", ["%0a", "%0d", "%00", "%c2%85", "%e2%80%a8"])
@pytest.mark.parametrize(("method", "path"), ADMIN_DOORS)
def test_no_character_at_the_end_opens_them(
    server: RunningServer, method: str, path: str, suffix: str
) -> None:
    answer = ask(server, "sk-aaa", method, path + suffix, {"lora_name": "x", "lora_path": "/x"})
    assert answer.status_code in (403, 404)


def test_the_routes_themselves_are_locked(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loramux.server.http.authentication.needs_admin", lambda *request: False)
    for method, path in ADMIN_DOORS:
        answer = ask(server, "sk-aaa", method, path, {"lora_name": "x", "lora_path": "/x"})
        assert not answer.is_success, path
    assert ask(server, "sk-aaa", "GET", "/metrics").status_code == 403


def test_resolvers_failures_are_for_operators(server: RunningServer) -> None:
    assert ask(server, "sk-aaa", "GET", "/v1/adapters").json()["resolver_failures"] == []
    assert ask(server, "sk-ops", "GET", "/v1/adapters").json()["resolver_failures"] != []


def test_an_operator_with_patterns_keeps_to_them(server: RunningServer) -> None:
    def post(path: str, **body: str) -> httpx.Response:
        return ask(server, "sk-ops-a", "POST", f"/v1/{path}", body)

    assert post("load_lora_adapter", lora_name="team-a/new", lora_path="/x").status_code == 200
    refused = post("load_lora_adapter", lora_name="team-b/loaded", lora_path="/x")
    free = post("load_lora_adapter", lora_name="team-b/free", lora_path="/x")
    assert shape(refused, "team-b/loaded") == shape(free, "team-b/free")
    assert refused.status_code == 400
    missing = post("unload_lora_adapter", lora_name="team-a/none")
    foreign = post("unload_lora_adapter", lora_name="team-b/loaded")
    assert shape(missing, "team-a/none") == shape(foreign, "team-b/loaded")
    assert ask(server, "sk-ops-a", "DELETE", "/v1/adapters/team-b/loaded").status_code == 404
    assert post("unload_lora_adapter", lora_name="team-a/new").status_code == 200


def test_too_many_requests_a_second(server: RunningServer) -> None:
    assert ask(server, "sk-hasty", "GET", "/v1/models").status_code == 200
    refused = ask(server, "sk-hasty", "GET", "/v1/models")
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "100"
    assert ask(server, "sk-aaa", "GET", "/v1/models").status_code == 200


def test_a_request_for_four_sequences_counts_as_four(server: RunningServer) -> None:
    assert complete(server, "sk-bulky", "base", prompt=["ab", "c"], n=2).status_code == 200
    refused = complete(server, "sk-bulky", "base")
    assert refused.status_code == 429
    assert 200 < int(refused.headers["retry-after"]) <= 400


def test_the_callers_own_oldest_adapters_make_room(server: RunningServer) -> None:
    def held(key: str) -> list[str]:
        rows = ask(server, key, "GET", "/v1/adapters").json()["data"]
        return [row["name"] for row in rows if row["found_by"] != "registered"]

    complete(server, "sk-aaa", "team-a/mine")
    complete(server, "sk-aaa", "shared")
    before = held("sk-aaa")
    server.engine.unloaded.clear()
    for name in ("team-b/0", "team-b/1", "shared", "team-b/1", "team-b/2"):
        complete(server, "sk-bbb", name)
    assert held("sk-bbb") == ["team-b/1", "team-b/2"]
    assert held("sk-aaa") == before
    # What another still uses is not taken from the engine.
    assert "team-b/0" in server.engine.unloaded
    assert "shared" not in server.engine.unloaded


def test_too_many_loads_at_the_same_time(server: RunningServer) -> None:
    server.engine.is_held = True
    slow = threading.Thread(target=complete, args=(server, "sk-bbb", "team-b/slow"))
    slow.start()
    try:
        wait_until(lambda: server.engine.loads)
        refused = complete(server, "sk-bbb", "team-b/too-much")
        other = ask(server, "sk-bbb", "GET", "/v1/models")
    finally:
        server.engine.is_held = False
        slow.join()
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert other.status_code == 200
    assert complete(server, "sk-bbb", "team-b/too-much").status_code == 200


def test_prompts_are_salted_by_the_tenant(server: RunningServer) -> None:
    def salt(key: str, **more: str) -> str:
        assert complete(server, key, "base", **more).status_code == 200
        return server.engine.prompts[-1]["cache_salt"]

    salts = [salt("sk-aaa"), salt("sk-bbb"), salt("sk-aaa", cache_salt="x"),
             salt("sk-bbb", cache_salt="x"), salt("sk-ops", cache_salt="team-a")]  # fmt: skip
    assert len(set(salts)) == len(salts)
    assert salt("sk-aaa") == salts[0]
    assert complete(server, "sk-aaa", "base", cache_salt="").status_code == 400


def test_no_key_is_logged_or_answered(
    server: RunningServer, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    server.engine.failures["boom"] = RuntimeError("unforeseen")
    answers = [
        complete(server, "sk-aaa", "shared"),
        complete(server, "sk-aaa", "team-b/found"),
        complete(server, "sk-aaa", "base", prompt="boom"),
        complete(server, "sk-wrong-one", "base"),
        ask(server, "sk-hasty", "GET", "/v1/models"),
        ask(server, "sk-aaa", "POST", "/v1/load_lora_adapter", {}),
    ]
    assert [answer.status_code for answer in answers] == [200, 404, 500, 401, 429, 403]
    server.state.keyring.reload()
    shown = caplog.text + "".join(capfd.readouterr())
    shown += "".join(f"{answer.text}{answer.headers}" for answer in answers)
    assert "unforeseen" in shown
    assert "sk-" not in shown


def test_keys_that_are_taken_away_open_nothing(server: RunningServer, keys_file: Path) -> None:
    keys_file.write_text(KEYS.replace("sk-aaa", "sk-new"))
    server.state.keyring.reload()
    assert ask(server, "sk-aaa", "GET", "/v1/models").status_code == 401
    assert ask(server, "sk-new", "GET", "/v1/models").status_code == 200
    keys_file.write_text(KEYS)
    server.state.keyring.reload()


def test_operators_bring_adapters_near_and_keep_them_there(server: RunningServer) -> None:
    def door(method: str, path: str, key: str = "sk-ops") -> httpx.Response:
        return ask(server, key, method, f"/v1/adapters/{path}")

    assert door("POST", "team-a/x/prefetch").json() == {"name": "team-a/x", "tier": "device"}
    pinned = door("POST", "team-a/x/pin")
    assert pinned.json() == {"name": "team-a/x", "tier": "device", "pinned": True}
    assert server.engine.placed[-1] == server.engine.pinned[-1] == "team-a/x"
    rows = ask(server, "sk-ops", "GET", "/v1/adapters").json()["data"]
    assert "team-a/x" in [row["name"] for row in rows if row["pinned"]]
    assert door("DELETE", "team-a/x/pin", "sk-ops-a").json()["pinned"] is False
    again = door("DELETE", "team-a/x/pin")
    foreign = door("DELETE", "team-b/x/pin", "sk-ops-a")
    assert shape(again, "team-a/x") == shape(foreign, "team-b/x")
    for verb in ("pin", "prefetch"):
        assert door("POST", f"absent/{verb}").status_code == 404
        assert door("POST", f"base/{verb}").status_code == 404
        assert door("POST", f"team-b/x/{verb}", "sk-ops-a").status_code == 404
    assert door("DELETE", "team-a/x").json() == {"name": "team-a/x", "removed": True}
    assert server.engine.unloaded[-1] == "team-a/x"
    assert door("DELETE", "team-a/x").status_code == 404


def test_rows_tell_how_an_adapter_is_used(server: RunningServer) -> None:
    started = time.time()
    for _ in range(3):
        complete(server, "sk-aaa", "team-a/used")
    rows = ask(server, "sk-aaa", "GET", "/v1/adapters").json()["data"]
    (row,) = [row for row in rows if row["name"] == "team-a/used"]
    assert row["hits"] == 3
    assert started <= row["last_used"] <= time.time()
    assert (row["references"], row["pinned"], row["tier"]) == (0, False, "host")


def test_where_an_adapter_lies_is_told_to_operators(server: RunningServer) -> None:
    for key in ("sk-aaa", "sk-ops", "sk-ops-a"):
        assert complete(server, key, "team-a/placed").status_code == 200

    def shown(key: str) -> tuple[Any, ...]:
        cards = {c["id"]: c for c in ask(server, key, "GET", "/v1/models").json()["data"]}
        assert ask(server, key, "GET", "/v1/models/base").json() == cards["base"]
        assert ask(server, key, "GET", "/v1/models/team-a/placed").json() == cards["team-a/placed"]
        rows = {r["name"]: r for r in ask(server, key, "GET", "/v1/adapters").json()["data"]}
        row, card = rows["team-a/placed"], cards["team-a/placed"]
        return cards["base"]["root"], card["parent"], card["root"], row["path"], row["source"]

    place = "/of/team-a/placed"
    assert shown("sk-aaa") == ("base", "base", "team-a/placed", None, None)
    assert shown("sk-ops") == shown("sk-ops-a") == (MODEL, "base", place, place, place)


def test_a_place_whose_name_is_no_text(server: RunningServer, resolver: Everything) -> None:
    """As names of files may be."""
    resolver.root = "/of-\udcff"
    try:
        assert complete(server, "sk-ops", "odd").status_code == 200
    finally:
        resolver.root = "/of"
    rows = ask(server, "sk-ops", "GET", "/v1/adapters").json()["data"]
    cards = ask(server, "sk-ops", "GET", "/v1/models").json()["data"]
    assert [row["path"] for row in rows if row["name"] == "odd"] == ["/of-?/odd"]
    assert [card["root"] for card in cards if card["id"] == "odd"] == ["/of-?/odd"]
    assert ApiError(400, "", "/of-\udcff: it is empty.").response().status_code == 400


def test_the_same_bytes_under_another_name_give_nobody_away(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("sk-ops", "sk-ops-a"):
        assert complete(server, key, "team-a/same").status_code == 200
    (info,) = [info for info in server.engine.adapter_infos() if info.name == "team-a/same"]
    last_found = replace(info, path="/of/team-b/same")  # an engine has them once
    monkeypatch.setattr(server.engine, "adapter_infos", lambda: [last_found])
    for key, place in (("sk-ops", "/of/team-b/same"), ("sk-ops-a", "/of/team-a/same")):
        rows = ask(server, key, "GET", "/v1/adapters").json()["data"]
        assert [row["source"] for row in rows if row["name"] == "team-a/same"] == [place]


def test_an_operator_with_patterns_sees_no_other_names(server: RunningServer) -> None:
    for key, name in (("sk-aaa", "team-a/metered"), ("sk-bbb", "team-b/metered")):
        assert complete(server, key, name).status_code == 200
    seen = {
        key: ask(server, key, "GET", "/metrics").text + ask(server, key, "GET", "/v1/adapters").text
        for key in ("sk-ops", "sk-ops-a")
    }
    assert "team-a/metered" in seen["sk-ops-a"]
    assert "team-b" not in seen["sk-ops-a"]
    assert "team-b/metered" in seen["sk-ops"]


@pytest.mark.parametrize("route", [route for route in ROUTES if route != "models"])
def test_where_an_adapter_lies_is_for_operators(server: RunningServer, route: str) -> None:
    reason = "rank 128 exceeds max_lora_rank 16."
    error = AdapterRefusedError.at("/of/shared", reason)
    server.engine.load_failures["/of/shared"] = error
    server.engine.failures = {"ab": error}
    try:
        ask(server, "sk-ops", "DELETE", "/v1/adapters/shared")
        told = {
            key: ROUTES[route](server, key, "shared").json()["error"]["message"]
            for key in ("sk-aaa", "sk-ops")
        }
        del server.engine.load_failures["/of/shared"]  # and once it is the engine that refuses
        late = ROUTES["completions"](server, "sk-aaa", "shared").json()["error"]["message"]
    finally:
        server.engine.load_failures.clear()
        server.engine.failures = {}
    assert told == {"sk-aaa": f"Adapter 'shared': {reason}", "sk-ops": f"/of/shared: {reason}"}
    assert late == told["sk-aaa"]
