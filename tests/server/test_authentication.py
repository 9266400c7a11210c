"""API keys: everything but two paths needs one, and resolvers learn which."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from openai import AuthenticationError

from loramux.errors import InvalidRequestError
from loramux.lora.request import LoRARequest
from loramux.lora.resolver import LoRAResolver, ResolveContext
from loramux.server.access.keyring import Keyring, fingerprint
from loramux.server.serve_options import ServeOptions
from tests.server.conftest import state_around
from tests.server.fake_engine import FakeEngine
from tests.server.running_server import RunningServer, running


class PrivateResolver(LoRAResolver):
    """Has one adapter for Alice alone, and one name that is another adapter for each caller."""

    async def resolve_lora(
        self, base_model_name: str, lora_name: str, context: ResolveContext | None = None
    ) -> LoRARequest | None:
        if lora_name == "shared" and context and context.caller:
            return LoRARequest(lora_name, 1, f"/of/{context.caller}")
        if context is None or context.caller != fingerprint("alice-key"):
            return None
        return LoRARequest(lora_name, 1, "/private") if lora_name == "private" else None


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    keys = ("alice-key", "böb-key")
    state = state_around(
        FakeEngine(), PrivateResolver(), keyring=Keyring(keys), allow_runtime_updates=True
    )
    with running(state) as server:
        yield server


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("GET", "/v1/adapters"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/load_lora_adapter"),
        ("POST", "/v1/unload_lora_adapter"),
        ("POST", "/generate"),
        ("POST", "/tokenize"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/nowhere"),
        ("GET", "//health"),
        ("OPTIONS", "/v1/models"),
    ],
)
@pytest.mark.parametrize(
    "authorization", [None, "Bearer wrong", "Basic alice-key", "alice-key", "Bearer"]
)
def test_nothing_else_is_open(
    server: RunningServer, method: str, path: str, authorization: str | None
) -> None:
    headers = {"authorization": authorization} if authorization else {}
    with server.http() as client:
        response = client.request(method, server.url + path, headers=headers)
    assert response.status_code == 401
    assert response.json()["error"]["type"] == "AuthenticationError"
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["x-request-id"]


def test_health_and_version_are_open(server: RunningServer) -> None:
    with server.http() as client:
        assert client.get("/health").status_code == 200
        assert client.get("/version").status_code == 200


def test_the_official_client_sends_the_key(server: RunningServer) -> None:
    assert server.openai(api_key="alice-key").models.list().data
    with pytest.raises(AuthenticationError):
        server.openai(api_key="wrong").models.list()


def test_what_one_caller_found_stays_with_that_caller(server: RunningServer) -> None:
    def ask(key: str) -> int:
        with server.http(headers={"authorization": f"Bearer {key}".encode()}) as client:
            body = {"model": "private", "prompt": "ab", "max_tokens": 1}
            return client.post("/v1/completions", json=body).status_code

    def models(key: str) -> list[str]:
        with server.http(headers={"authorization": f"Bearer {key}".encode()}) as client:
            return [card["id"] for card in client.get("/v1/models").json()["data"]]

    assert ask("alice-key") == 200
    assert ask("böb-key") == 404
    assert "private" in models("alice-key")
    assert "private" not in models("böb-key")


def test_adapters_shows_a_caller_nothing_of_anothers(server: RunningServer) -> None:
    def client(key: str) -> httpx.Client:
        return server.http(headers={"authorization": f"Bearer {key}".encode()})

    digests = {}
    for key in ("alice-key", "böb-key"):
        with client(key) as asking:
            body = {"model": "shared", "prompt": "ab", "max_tokens": 1}
            answer = asking.post("/v1/completions", json=body)
        digests[key] = answer.headers["x-loramux-adapter-digest"]
    for key, digest in digests.items():
        with client(key) as asking:
            rows = asking.get("/v1/adapters").json()["data"]
        (row,) = [row for row in rows if row["name"] == "shared"]
        assert row["path"] == f"/of/{fingerprint(key)}"
        # the engine of this test knows the latest adapter of a name only
        assert row["digest"] == (digest if key == "böb-key" else None)


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_page_of_another_site_changes_nothing_where_no_key_is_needed(site: str) -> None:
    state = state_around(FakeEngine(), PrivateResolver(), allow_runtime_updates=True)
    with running(state) as server, server.http(headers={"sec-fetch-site": site}) as foreign:
        for path in ("/generate", "/v1/load_lora_adapter", "/v1/adapters/a/pin"):
            answer = foreign.post(path, content=b'{"prompt": "a"}')
            assert answer.status_code == 403
            assert (
                "start it with --allowed-origins or --api-key" in answer.json()["error"]["message"]
            )
        assert foreign.get("/v1/models").status_code == 200  # which the browser shows it not
        own = foreign.post(
            "/generate", json={"prompt": "a"}, headers={"sec-fetch-site": "same-origin"}
        )
        assert own.status_code == 200


def test_a_wrong_key_is_told_from_none(server: RunningServer) -> None:
    for key, says in (("wrong", "does not know the API key"), ("", "needs an API key")):
        with server.http() as client:
            sent = {"authorization": f"Bearer {key}".strip()}
            answer = client.get("/v1/models", headers=sent)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert says in answer.json()["error"]["message"]


PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-lang",
}
PAGE = {"origin": "https://app.example", "sec-fetch-site": "cross-site"}
ALLOWED = "access-control-allow-origin"


def test_any_page_may_ask_with_a_key_where_one_is_needed() -> None:
    origins = ServeOptions(api_keys=("alice-key",)).origins
    state = state_around(
        FakeEngine(), PrivateResolver(), keyring=Keyring(["alice-key"]), allowed_origins=origins
    )
    with running(state) as server, server.http(headers=PAGE) as page:
        asked = page.options("/v1/completions", headers=PREFLIGHT)  # which carries no key
        assert (asked.status_code, asked.headers[ALLOWED]) == (200, "*")
        assert asked.headers["access-control-allow-headers"].count("x-stainless-lang") == 1
        refused = page.post("/v1/completions", json={"prompt": "a"})
        assert (refused.status_code, refused.headers[ALLOWED]) == (401, "*")
        key = {"authorization": "Bearer alice-key"}
        answer = page.post("/v1/completions", json={"prompt": "a"}, headers=key)
        assert (answer.status_code, answer.headers[ALLOWED]) == (200, "*")
        assert answer.headers["access-control-expose-headers"] == "*"


def test_pages_of_named_origins_may_ask_without_a_key() -> None:
    origins = ServeOptions(allowed_origins=(PAGE["origin"],)).origins
    state = state_around(FakeEngine(), PrivateResolver(), allowed_origins=origins)
    with running(state) as server, server.http() as page:
        for headers, status, allowed in [
            (PAGE, 200, PAGE["origin"]),
            ({**PAGE, "origin": "https://elsewhere.example"}, 403, None),
        ]:
            answer = page.post("/generate", json={"prompt": "a"}, headers=headers)
            assert (answer.status_code, answer.headers.get(ALLOWED)) == (status, allowed)
            asked = page.options("/generate", headers={**PREFLIGHT, **headers})
            assert (asked.status_code == 200, asked.headers.get(ALLOWED)) == (
                status == 200,
                allowed,
            )
    assert ServeOptions().origins == ()


@pytest.mark.parametrize("origin", ["app.example", "https://app.example/", "https://a b", ""])
def test_what_is_no_origin(origin: str) -> None:
    with pytest.raises(
        InvalidRequestError, match=r"--allowed-origins takes \*, or origins such as"
    ):
        ServeOptions(allowed_origins=(origin,))


@pytest.mark.parametrize("origin", ["http://elsewhere.example", "null"])
def test_a_page_of_another_site_is_told_by_its_origin_too(origin: str) -> None:
    """Browsers send sec-fetch-site only to encrypted servers and to those of their own machine."""
    state = state_around(FakeEngine(), PrivateResolver())
    with running(state) as server, server.http() as page:
        body = {"prompt": "a"}
        assert page.post("/generate", json=body, headers={"origin": origin}).status_code == 403
        own = {"origin": server.url}
        assert page.post("/generate", json=body, headers=own).status_code == 200


def test_a_site_whose_name_leads_to_this_machine_is_nobody_here() -> None:
    """To a browser such a page is the server's own: it could read every answer."""
    state = state_around(FakeEngine(), PrivateResolver(), is_local=True)
    with running(state) as server, server.http() as client:

        def status(host: str, path: str = "/v1/models") -> int:
            return client.get(path, headers={"host": host}).status_code

        for name in ("rebound.example:8000", "localhost.example", "127.0.0.1.example", "", "[::1"):
            assert status(name) == 403
        for name in ("localhost", "LOCALHOST:80", "demo.localhost", "127.0.0.1:8000", "[::1]:8000"):
            assert status(name) == 200
        assert status("probe.example", "/health") == 200
        paths = client.get("/openapi.json").json()["paths"]
        told = {
            path: "403" in paths[path]["get"]["responses"] for path in ("/v1/models", "/health")
        }
        assert told == {"/v1/models": True, "/health": False}
