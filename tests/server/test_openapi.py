"""Every answer is what ``/openapi.json`` says: its status, its type, and each of its fields."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from loramux.errors import EngineBusyError
from loramux.server.access.keyring import Keyring
from loramux.server.adapters.allowed_paths import AllowedPaths
from loramux.server.chat.tools.options import ToolOptions
from tests.server.conftest import FolderResolver, state_around
from tests.server.fake_engine import FakeEngine
from tests.server.running_server import RunningServer, running

ADMIN, TENANT = {"authorization": "Bearer sk-admin"}, {"authorization": "Bearer sk-tenant"}
KEYS = """
[[keys]]
name = "ops"
key = "sk-admin"
role = "admin"

[[keys]]
name = "tenant"
key = "sk-tenant"
adapters = ["red"]
"""
CHAT, TEXT, LOAD = "/v1/chat/completions", "/v1/completions", "/v1/load_lora_adapter"
MESSAGES = [{"role": "user", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALL = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
USAGE = {"stream": True, "stream_options": {"include_usage": True}}


class Document:
    """The API's own description, and what it says of a response."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        for schema in document["components"]["schemas"].values():
            Draft202012Validator.check_schema(schema)
            if "properties" in schema:  # nothing may be answered that is not described
                schema["additionalProperties"] = False

    def operations(self) -> set[tuple[str, str]]:
        return {
            (method.upper(), path)
            for path, operations in self.document["paths"].items()
            for method in operations
        }

    def check(self, route: str, response: httpx.Response) -> None:
        """A response of a route, whose path is written as the document writes it."""
        method = response.request.method.lower()
        responses = self.document["paths"][route][method]["responses"]
        assert str(response.status_code) in responses, response.text
        contents = responses[str(response.status_code)].get("content", {})
        media_type = response.headers.get("content-type", "").partition(";")[0]
        if not contents:
            assert (media_type, response.content) == ("", b"")
            return
        assert media_type in contents, (media_type, response.text)
        self._check_content(contents[media_type]["schema"], media_type, response)

    def _check_content(
        self, schema: dict[str, Any], media_type: str, response: httpx.Response
    ) -> None:
        if media_type == "application/json":
            self._fits(response.json(), schema)
        elif media_type == "text/event-stream":
            data = schema["properties"]["data"]["anyOf"][1]["contentSchema"]
            *events, end = [line for line in response.text.splitlines() if line]
            assert end == "data: [DONE]"
            for event in events:
                self._fits(json.loads(event.removeprefix("data: ")), data)

    def _fits(self, value: Any, schema: dict[str, Any]) -> None:
        whole = {**schema, "components": self.document["components"]}
        errors = [error.message for error in Draft202012Validator(whole).iter_errors(value)]
        assert not errors, (errors, value)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[RunningServer]:
    (folder / "red").mkdir()
    keys = folder / "keys.toml"
    keys.write_text(KEYS)
    keys.chmod(0o600)
    state = state_around(
        FakeEngine(),
        FolderResolver(folder),
        keyring=Keyring(file=keys),
        allow_runtime_updates=True,
        allowed_paths=AllowedPaths.of([str(folder)]),
        tools=ToolOptions(enable_auto_tool_choice=True, tool_call_parser="hermes"),
        max_body_bytes=64 * 1024,
    )
    with running(state) as server:
        yield server


@pytest.fixture(scope="module")
def document(server: RunningServer) -> Document:
    with server.http(headers=ADMIN) as http:
        return Document(http.get("/openapi.json").json())


def chat(**fields: Any) -> tuple[str, str, dict[str, Any]]:
    return "POST", CHAT, {"messages": MESSAGES, "max_tokens": 3, **fields}


def text(**fields: Any) -> tuple[str, str, dict[str, Any]]:
    return "POST", TEXT, {"prompt": "hello", "max_tokens": 3, **fields}


NAMED = {"tool_choice": {"type": "function", "function": {"name": "f"}}, "tools": [TOOL]}
CALLS = {"messages": [{"role": "user", "content": CALL}], "tools": [TOOL], "max_tokens": 80}
LOGPROBS = {"logprobs": True, "top_logprobs": 2}

SUCCESSES = [
    ("GET", "/health", None),
    ("GET", "/version", None),
    ("GET", "/metrics", None),
    ("GET", "/v1/models", None),
    ("GET", "/v1/models/base", None),
    ("POST", "/v1/adapters/red/prefetch", None),
    ("POST", "/v1/adapters/red/pin", None),
    ("GET", "/v1/adapters", None),
    ("DELETE", "/v1/adapters/red/pin", None),
    ("POST", LOAD, {"lora_name": "blue"}),
    ("GET", "/v1/models", None),
    ("POST", "/v1/unload_lora_adapter", {"lora_name": "blue"}),
    ("POST", LOAD, {"lora_name": "blue"}),
    ("DELETE", "/v1/adapters/blue", None),
    ("POST", "/generate", {"prompt": ["hello", "you"], "model": "red"}),
    ("POST", "/tokenize", {"prompt": "hello"}),
    ("POST", "/tokenize", {"messages": MESSAGES, "return_token_strs": True}),
    ("POST", "/detokenize", {"tokens": [71, 72]}),
    chat(),
    chat(model="red", n=2, **LOGPROBS, prompt_logprobs=1),
    chat(**NAMED),
    chat(**CALLS),
    chat(stream=True, n=2, **LOGPROBS),
    chat(**USAGE),
    chat(**NAMED, **USAGE),
    chat(**CALLS, **USAGE),
    text(),
    text(model="red", prompt=["ab", "cd"], n=2, logprobs=2, echo=True, prompt_logprobs=1),
    text(stream=True, logprobs=0, echo=True, prompt_logprobs=1),
    text(**USAGE, echo=True, max_tokens=0, logprobs=1),
]


def template(path: str) -> str:
    """The path as the document writes it."""
    head, _, rest = path.partition("/v1/adapters/")
    if rest:
        _name, _, action = rest.partition("/")
        return "/v1/adapters/{name}" + (f"/{action}" if action else "")
    return "/v1/models/{name}" if path.startswith("/v1/models/") else head


def test_what_succeeds(server: RunningServer, document: Document, folder: Path) -> None:
    seen = set()
    with server.http(headers=ADMIN) as http:
        for method, path, body in SUCCESSES:
            more = {"lora_path": str(folder / "red")} if path == LOAD else {}
            response = http.request(method, path, json=body and {**body, **more})
            assert response.status_code == 200, (path, body, response.text)
            document.check(template(path), response)
            seen.add((method, template(path)))
    assert document.operations() - seen <= {("POST", "/v1/embeddings")}


REFUSALS = [
    (400, *chat(messages=[])),
    (400, *chat(n="2")),
    (400, *text(prompt=[])),
    (400, "POST", "/generate", {"prompt": "a", "stream": True}),
    (400, "POST", "/tokenize", {}),
    (400, "POST", "/detokenize", {"tokens": ["a"]}),
    (400, "POST", LOAD, {"lora_name": "blue"}),
    (404, *chat(model="nobody")),
    (404, *text(model="nobody", stream=True)),
    (404, "POST", "/generate", {"prompt": "a", "model": "nobody"}),
    (404, "GET", "/v1/models/nobody", None),
    (404, "POST", "/v1/adapters/nobody/pin", None),
    (404, "DELETE", "/v1/adapters/nobody/pin", None),
    (404, "DELETE", "/v1/adapters/nobody", None),
    (404, "POST", LOAD, {"lora_name": "blue", "lora_path": "/nowhere"}),
    (404, "POST", "/v1/unload_lora_adapter", {"lora_name": "nobody"}),
    (413, *text(prompt="a" * 70_000)),
    (413, "POST", "/tokenize", {"prompt": "a" * 70_000}),
]


def test_what_is_refused(server: RunningServer, document: Document) -> None:
    with server.http(headers=ADMIN) as http:
        for status, method, path, body in REFUSALS:
            response = http.request(method, path, json=body)
            assert response.status_code == status, (path, body, response.text)
            document.check(template(path), response)


def test_what_keys_and_limits_refuse(server: RunningServer, document: Document) -> None:
    operations = sorted(document.operations() - {("GET", "/health"), ("GET", "/version")})
    with server.http() as http:
        for method, route in operations:
            path = route.replace("{name}", "red")
            without = http.request(method, path, json={})
            assert without.status_code == 401, route
            document.check(route, without)
            long = http.request(method, path, headers={**ADMIN, "x": "a" * 40_000})
            assert long.status_code == 431, route
            document.check(route, long)
            document.check(route, http.request(method, path, json={}, headers=TENANT))


def test_an_engine_that_fails(server: RunningServer, document: Document) -> None:
    server.engine.fails_after = 1
    failing = {"hello": EngineBusyError("full"), "ab": RuntimeError("a bug")}
    server.engine.failures = failing
    with server.http(headers=ADMIN) as http:
        for prompt, status in (("hello", 429), ("ab", 500)):
            response = http.post(TEXT, json={"prompt": prompt})
            assert response.status_code == status
            document.check(TEXT, response)
            streamed = http.post(TEXT, json={"prompt": prompt, "stream": True})
            assert '"error":' in streamed.text
            document.check(TEXT, streamed)
        server.engine.failures, server.engine.is_dead = {}, True
        dead = http.get("/health")
        assert dead.status_code == 503
        document.check("/health", dead)
    server.engine.is_dead = False


def test_the_document_itself(document: Document) -> None:
    validate(document.document)
    names = {"ChatCompletion", "ChatCompletionChunk", "Completion", "CompletionChunk"}
    assert names <= document.document["components"]["schemas"].keys()
