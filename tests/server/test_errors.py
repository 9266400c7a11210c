"""Every way a request can go wrong, and the one answer it gets."""

from __future__ import annotations

import gzip
import json
from typing import Any

import httpx
import pytest
from openai import InternalServerError, NotFoundError, RateLimitError

from loramux.errors import (
    AdapterNotFoundError,
    AdapterRefusedError,
    AdapterUnavailableError,
    EngineBusyError,
    EngineDeadError,
    InvalidRequestError,
)
from loramux.server.access.keyring import Keyring
from tests.server.conftest import FolderResolver, state_around
from tests.server.fake_engine import MAX_MODEL_LEN, FakeEngine
from tests.server.running_server import RunningServer, running

PROMPT = {"prompt": "ab"}


def post(server: RunningServer, body: Any, path: str = "/v1/completions", **settings: Any) -> Any:
    with server.http() as client:
        kind = {"content": body} if isinstance(body, bytes) else {"json": body}
        return client.post(path, **kind, **settings)


def check_error(response: httpx.Response, status: int, kind: str, says: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == kind
    assert error["code"] == status
    assert says in error["message"]
    assert "\n" not in error["message"]
    return error


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({}, "prompt", "Field required"),
        ({"prompt": None}, "prompt", "Field required"),
        ({"prompt": []}, "prompt", "must not be empty"),
        ({"prompt": {"a": 1}}, "prompt", "prompt must be a string"),
        ({"prompt": ["a", 1]}, "prompt", "prompt must be a string"),
        ({"prompt": [[]]}, "prompt", "prompt must be a string"),
        ({"prompt": [True]}, "prompt", "prompt must be a string"),
        ({"prompt": ["a"] * 2049}, "prompt", "2049 prompts"),
        ({"prompt": [-1], "echo": True}, "prompt", "Token ids must be"),
        ({"prompt": [-1] * MAX_MODEL_LEN, "echo": True}, "prompt", "the prompt alone has 256"),
        ({"prompt": "ab", "temperature": "warm"}, "temperature", "number"),
        ({"prompt": "ab", "temperature": -1}, "temperature", "between 0 and 2"),
        ({"prompt": "ab", "top_p": 0}, "top_p", "above 0"),
        ({"prompt": "ab", "max_tokens": 0}, "max_tokens", "at least 1"),
        ({"prompt": "ab", "max_tokens": -3}, "max_tokens", "greater than or equal to 0"),
        ({"prompt": "ab", "n": 0}, "n", "between 1 and 128"),
        ({"prompt": "ab", "logprobs": 21}, "logprobs", "less than or equal to 20"),
        ({"prompt": "ab", "logit_bias": {"x": 1}}, "logit_bias.x", "its name must be a token id"),
        ({"prompt": "ab", "stop": 1}, "stop", "a string or a list of strings, got 1"),
        ({"prompt": "ab", "stop": ["a", 1]}, "stop", "a string or a list of strings, got 1"),
        ({"prompt": "ab", "guided_json": 1}, "guided_json", "guided_json: "),
        ({"prompt": "ab", "logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias", "1024"),
        ({"prompt": "ab", "stop_token_ids": list(range(1025))}, "stop_token_ids", "1024"),
        ({"prompt": "ab", **{f"x{i}": i for i in range(1024)}}, None, "1025 fields, and at most"),
        (
            {"prompt": "ab", "stream_options": {}},
            "stream_options",
            "stream_options can only be given",
        ),
        ({"prompt": "ab", "best_of": 2}, "best_of", "best_of must be n"),
        ({"prompt": "ab", "suffix": "."}, "suffix", "'suffix' is not supported"),
        (
            {"prompt": "ab", "response_format": {"type": "xml"}},
            "response_format",
            "it can be text, json_object or json_schema",
        ),
        (
            {"prompt": "ab", "response_format": {"type": "json_schema"}},
            "response_format",
            "has no schema",
        ),
        (
            {"prompt": "ab", "guided_regex": "a", "response_format": {"type": "json_object"}},
            "guided_json",
            "cannot both be given",
        ),
        (
            {"prompt": "ab", "guided_regex": "a", "guided_choice": ["b"]},
            "structured_outputs",
            "exactly one of",
        ),
        (
            {"prompt": "ab", "structured_outputs": {"structural_tag": "{}"}},
            "structured_outputs",
            "no field 'structural_tag'",
        ),
        ({"prompt": "ab", "structured_outputs": {"choice": "ab"}}, "structured_outputs", "list"),
        ({"prompt": "ab", "use_beam_search": True}, "use_beam_search", "not supported"),
    ],
)
def test_invalid_fields(
    server: RunningServer, body: dict[str, Any], param: str | None, says: str
) -> None:
    error = check_error(post(server, body), 400, "BadRequestError", says)
    assert error["param"] == param
    assert server.engine.served == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"messages": []}, "messages must hold at least one message."),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0] has a part of type 'text' without a text; give it one.",
        ),
        (
            {"messages": [{"role": "user", "content": ["a"]}]},
            "messages[0] has content of type 'str'; only text is supported, as "
            '{"type": "text", "text": "..."}.',
        ),
        (
            {"messages": [{"role": "user", "content": ""}] * (MAX_MODEL_LEN + 1)},
            "This model's maximum context length is 256 tokens, and the chat has 257 messages; "
            "leave some out.",
        ),
        (
            {"messages": [{"role": "user"}], "top_logprobs": 2},
            "top_logprobs can only be given when logprobs is true.",
        ),
        (
            {"messages": [{"role": "forbidden"}]},
            "The chat template does not take these messages: no such role.",
        ),
    ],
)
def test_what_is_said_of_a_chat_is_one_sentence(
    server: RunningServer, body: dict[str, Any], message: str
) -> None:
    response = post(server, body, "/v1/chat/completions")
    error = check_error(response, 400, "BadRequestError", "")
    assert error["message"] == message
    assert error["param"].partition("[")[0] in body


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"messages": "a" * 300}, "messages", "the prompt alone has"),
        ({"messages": "a", "max_tokens": 300}, "max_tokens", "lower max_tokens."),
        (
            {"messages": "a", "max_completion_tokens": 300, "max_tokens": 2},
            "max_completion_tokens",
            "lower max_completion_tokens.",
        ),
        ({"prompt": "ab", "response_format": {"type": "choice", "choice": []}}, None, "choice"),
        ({"messages": "a", "response_format": {"type": "regex", "regex": 1}}, None, "regex"),
    ],
)
def test_errors_name_the_fields_that_were_sent(
    server: RunningServer, fields: dict[str, Any], param: str | None, says: str
) -> None:
    path = "/v1/completions" if "prompt" in fields else "/v1/chat/completions"
    if path.startswith("/v1/chat"):
        fields = {**fields, "messages": [{"role": "user", "content": fields["messages"]}]}
    error = check_error(post(server, fields, path), 400, "BadRequestError", says)
    assert error["param"] == (param or "response_format")


@pytest.mark.parametrize(
    "field",
    [
        {"functions": [{}]},
        {"modalities": ["audio"]},
        {"reasoning_effort": "high"},
        {"chat_template": "{{ messages }}"},
    ],
)
def test_chat_fields_that_cannot_be_honoured(server: RunningServer, field: dict[str, Any]) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], **field}
    error = check_error(
        post(server, body, "/v1/chat/completions"), 400, "BadRequestError", "not supported"
    )
    assert error["param"] == next(iter(field))


TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"tools": [{"type": "function"}]}, "tools.0.function", "Field required"),
        ({"tools": [TOOL]}, "tool_choice", "requires --enable-auto-tool-choice"),
        ({"tools": [TOOL] * 1025}, "tools", "at most 1024 items"),
        ({"tools": [TOOL, TOOL], "tool_choice": "required"}, "tools", "two functions named 'f'"),
        ({"tool_choice": "required"}, "tool_choice", "there are no tools"),
        ({"tool_choice": "x"}, "tool_choice", "must be 'none', 'auto', 'required', or"),
        ({"tool_choice": {"type": "function"}}, "tool_choice", '"function": {"name": "..."}}.'),
        ({"chat_template_kwargs": {f"x{i}": i for i in range(257)}}, "chat_template_kwargs", "256"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
            "tool_choice",
            "'g', which is not among the tools",
        ),
        (
            {
                "tools": [TOOL],
                "tool_choice": "required",
                "response_format": {"type": "json_object"},
            },
            "tool_choice",
            "a form of its own",
        ),
    ],
)
def test_tools_that_cannot_be_called(
    server: RunningServer, fields: dict[str, Any], param: str | None, says: str
) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], **fields}
    error = check_error(post(server, body, "/v1/chat/completions"), 400, "BadRequestError", says)
    assert error["param"] == param


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"role": "assistant", "tool_calls": "f"}, "must be a list"),
        ({"role": "assistant", "tool_calls": [{}]}, "no function with a name"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]},
            "no JSON",
        ),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "1"}}]},
            "a JSON object",
        ),
    ],
)
def test_calls_that_are_none(server: RunningServer, message: dict[str, Any], says: str) -> None:
    response = post(server, {"messages": [message]}, "/v1/chat/completions")
    check_error(response, 400, "BadRequestError", says)


def test_fields_that_change_nothing_are_let_through(server: RunningServer) -> None:
    neutral = {
        "tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "store": True,
        "parallel_tool_calls": True, "user": "me", "metadata": {"a": "b"}, "unheard_of": 1,
        "modalities": ["text"], "service_tier": "flex", "priority": 0, "max_tokens": 2,
        "prediction": {"type": "content", "content": "x"},
    }  # fmt: skip
    body = {"messages": [{"role": "user", "content": "x"}], **neutral}
    assert post(server, body, "/v1/chat/completions").status_code == 200


def test_more_log_probabilities_than_a_server_can_hold(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loramux.server.completions.request.MAX_SCORES", 24)
    for fields, param in (
        ({"prompt_logprobs": 3}, "prompt_logprobs"),
        ({"logprobs": 3, "echo": True}, "logprobs"),
    ):
        body = {"prompt": ["abcd", "ef"], "max_tokens": 1, **fields}
        assert post(server, body).status_code == 200
        refused = post(server, {**body, "prompt": ["abcd", "efg"]})
        says = "7 tokens of prompts (n = 1), and 4 log probabilities of each are more than the 24"
        assert check_error(refused, 400, "BadRequestError", says)["param"] == param
        refused = post(server, {**body, "n": 2})  # each choice has them anew
        says = "12 tokens of prompts (n = 2)"
        assert check_error(refused, 400, "BadRequestError", says)["param"] == param


def test_log_probabilities_that_wait_for_the_last_token(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loramux.server.generation.sampling_fields.MAX_HELD_LOGPROBS", 24)
    body = {"prompt": ["ab", "cd"], "max_tokens": 3, "logprobs": 3}
    assert post(server, body).status_code == 200
    refused = post(server, {**body, "max_tokens": 4})
    says = "8 log probabilities for each of 4 tokens are more than the 24"
    assert check_error(refused, 400, "BadRequestError", says)["param"] == "logprobs"
    assert post(server, {**body, "max_tokens": 4, "stream": True}).status_code == 200
    chat = {"messages": [{"role": "user", "content": "x"}], "logprobs": True, "top_logprobs": 11}
    answer = post(server, chat, "/v1/chat/completions").json()
    assert answer["usage"]["completion_tokens"] == 2  # of 12 log probabilities each
    refused = post(server, {**chat, "max_tokens": 3}, "/v1/chat/completions")
    check_error(refused, 400, "BadRequestError", "12 log probabilities for each of 3 tokens")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"[1]", "must be a JSON object"),
        (b"\xff", "not valid JSON"),
        (b'{"temperature": NaN, "prompt": "a"}', "expected value at line 1 column 17"),
        (b'{"prompt": "\\ud800"}', "not valid JSON"),
        (b"[" * 60_000, "recursion limit exceeded"),
        (b'{"max_tokens": ' + b"9" * 5000 + b"}", "not valid JSON"),
    ],
)
def test_malformed_bodies(server: RunningServer, content: bytes, says: str) -> None:
    headers = {"content-type": "application/json"}
    check_error(post(server, content, headers=headers), 400, "BadRequestError", says)


def test_a_byte_order_mark_is_no_part_of_a_body(server: RunningServer) -> None:
    body = b'\xef\xbb\xbf{"prompt": "a"}'
    assert post(server, body, headers={"content-type": "application/json"}).status_code == 200


@pytest.mark.parametrize("depth", [150, 400, 900])
@pytest.mark.parametrize("as_text", [False, True])
def test_what_is_nested_too_deeply_for_a_template(
    server: RunningServer, depth: int, as_text: bool
) -> None:
    arguments = '{"a": ' + "[" * depth + "]" * depth + "}"
    function = {"name": "f", "arguments": arguments if as_text else json.loads(arguments)}
    message = {"role": "assistant", "tool_calls": [{"function": function}]}
    response = post(server, {"messages": [message]}, "/v1/chat/completions")
    if depth < 200:
        assert response.status_code == 200
    else:
        check_error(response, 400, "BadRequestError", "recursion limit exceeded")


def test_other_content_types_are_refused(server: RunningServer) -> None:
    response = post(server, b"{}", headers={"content-type": "text/plain"})
    check_error(response, 400, "BadRequestError", "Unsupported Media Type")


@pytest.mark.parametrize("coding", ["gzip", "br", "identity, deflate"])
def test_encoded_bodies_are_refused_as_such(server: RunningServer, coding: str) -> None:
    response = post(server, gzip.compress(b"{}"), headers={"content-encoding": coding})
    check_error(response, 400, "BadRequestError", f"{coding!r}, which is not read; send it as")
    plain = post(server, PROMPT, headers={"content-encoding": "Identity"})
    assert plain.status_code == 200


def test_a_body_over_the_limit(server: RunningServer) -> None:
    limit = server.state.max_body_bytes
    announced = post(server, {"prompt": "a" * limit})
    check_error(announced, 413, "RequestTooLargeError", str(limit))

    def pieces() -> Any:
        for _ in range(limit // 1024 + 2):
            yield b" " * 1024

    with server.http() as client:
        headers = {"content-type": "application/json"}
        chunked = client.post("/v1/completions", content=pieces(), headers=headers)
    check_error(chunked, 413, "RequestTooLargeError", str(limit))


def test_too_long_for_the_model_names_both_numbers(server: RunningServer) -> None:
    both = post(server, {"prompt": "a" * 200, "max_tokens": 100})
    error = check_error(both, 400, "BadRequestError", "200 in the prompt and 100 to generate")
    assert str(MAX_MODEL_LEN) in error["message"]
    alone = post(server, {"prompt": "a" * MAX_MODEL_LEN})
    check_error(alone, 400, "BadRequestError", f"the prompt alone has {MAX_MODEL_LEN}")


def test_unknown_model_in_vllms_words(server: RunningServer) -> None:
    with pytest.raises(NotFoundError) as caught:
        server.openai().completions.create(model="nobody", prompt="ab")
    assert caught.value.body["message"] == "The model `nobody` does not exist."
    assert caught.value.body["param"] == "model"


@pytest.mark.parametrize("name", ["a\nb", "x" * 5000, "../../etc"])
def test_names_that_no_model_can_have(server: RunningServer, name: str) -> None:
    error = post(server, {"prompt": "ab", "model": name})
    assert error.status_code == 404
    assert len(error.json()["error"]["message"]) < 400


@pytest.mark.parametrize(
    ("error", "status", "kind", "retry"),
    [
        (InvalidRequestError("no such thing.", "prompt"), 400, "BadRequestError", None),
        (AdapterRefusedError("rank 99."), 400, "BadRequestError", None),
        (AdapterNotFoundError("it is gone."), 404, "NotFoundError", None),
        (AdapterUnavailableError("no answer."), 503, "ServiceUnavailableError", "1"),
        (EngineBusyError("queue full."), 429, "RateLimitError", "1"),
        (EngineDeadError("it has ended."), 500, "InternalServerError", None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_the_engine_raises_at_once(
    server: RunningServer,
    error: Exception,
    status: int,
    kind: str,
    retry: str | None,
    stream: bool,
) -> None:
    server.engine.failures["ab"] = error
    response = post(server, {**PROMPT, "stream": stream})
    check_error(response, status, kind, str(error))
    assert response.headers.get("retry-after") == retry
    assert server.engine.running == set()


def test_the_official_client_reads_the_statuses(server: RunningServer) -> None:
    client = server.openai().completions
    server.engine.failures = {"ab": EngineBusyError("full."), "cd": EngineDeadError("ended.")}
    with pytest.raises(RateLimitError):
        client.create(model="base", prompt="ab")
    with pytest.raises(InternalServerError):
        client.create(model="base", prompt="cd", stream=True)


@pytest.mark.parametrize("stream", [False, True])
def test_what_nobody_foresaw_stays_inside(
    server: RunningServer, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    server.engine.failures["ab"] = ZeroDivisionError("secret /path")
    headers = {"x-request-id": "trace-me"}
    response = post(server, {**PROMPT, "stream": stream}, headers=headers)
    error = check_error(response, 500, "InternalServerError", "trace-me")
    assert "secret" not in error["message"]
    assert response.headers["x-request-id"] == "trace-me"
    assert any("trace-me" in record.getMessage() for record in caplog.records)
    assert "secret /path" in caplog.text


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (EngineDeadError("it has ended."), "InternalServerError"),
        (ZeroDivisionError("secret"), "InternalServerError"),
    ],
)
def test_an_error_in_the_middle_of_a_stream(
    server: RunningServer, failure: Exception, kind: str
) -> None:
    server.engine.failures["ab"] = failure
    server.engine.fails_after = 2
    response = post(server, {**PROMPT, "stream": True})
    assert response.status_code == 200
    events = [line[6:] for line in response.text.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    error = json.loads(events[-2])["error"]
    assert error["type"] == kind
    assert "secret" not in error["message"]
    assert len(events) == 4
    assert server.engine.running == set()


def test_one_failing_prompt_of_several_frees_the_others(server: RunningServer) -> None:
    server.engine.failures["ab"] = EngineBusyError("full.")
    server.engine.is_held = True
    response = post(server, {"prompt": ["ab", "cd", "ef"], "max_tokens": 100})
    check_error(response, 429, "RateLimitError", "full.")
    assert server.engine.running == set()
    assert len(server.engine.served) == 3


@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("GET", "/nowhere", 404, "There is no GET /nowhere"),
        ("GET", "/v1/completions", 405, "use POST"),
        ("DELETE", "/v1/models", 405, "use GET"),
        ("GET", "/v1/adapters/a/pin", 405, "use DELETE, POST"),
        ("GET", "/v1/models/nobody", 404, "The model `nobody` does not exist."),
    ],
)
def test_routes(server: RunningServer, method: str, path: str, status: int, says: str) -> None:
    with server.http() as client:
        response = client.request(method, path)
    kind = "MethodNotAllowedError" if status == 405 else "NotFoundError"
    check_error(response, status, kind, says)


@pytest.mark.parametrize("key", [None, "ops"])
def test_routes_that_an_operator_has_not_opened(resolver: FolderResolver, key: str | None) -> None:
    state = state_around(FakeEngine(), resolver, keyring=Keyring([key] if key else []))
    doors = [("POST", "load_lora_adapter"), ("POST", "unload_lora_adapter")]
    doors += [("DELETE", "adapters/a")]
    if key is None:  # admins have these in any case
        doors += [("POST", "adapters/a/prefetch"), ("POST", "adapters/a/pin")]
    with running(state) as server, server.http(headers={"authorization": f"Bearer {key}"}) as http:
        for method, path in doors:
            answer = http.request(method, f"/v1/{path}")
            says = "set LORAMUX_ALLOW_RUNTIME_LORA_UPDATING=1 and start the server again"
            check_error(answer, 404, "NotFoundError", says)
        assert "/openapi.json has" in http.post("/v1/elsewhere").json()["error"]["message"]


def test_health_and_version(server: RunningServer) -> None:
    with server.http() as client:
        assert client.get("/health").status_code == 200
        assert client.get("/version").json()["version"]
        server.engine.is_dead = True
        check_error(client.get("/health"), 503, "ServiceUnavailableError", "has ended")


def test_request_ids(server: RunningServer) -> None:
    with server.http() as client:
        given = client.get("/version", headers={"x-request-id": "abc-1"})
        made = [client.get("/version").headers["x-request-id"] for _ in range(2)]
        strange = client.get("/version", headers={"x-request-id": "a b"})
        missing = client.get("/nowhere")
    assert given.headers["x-request-id"] == "abc-1"
    assert made[0] != made[1]
    assert strange.headers["x-request-id"] != "a b"
    assert missing.headers["x-request-id"]
    answer = post(server, PROMPT, headers={"x-request-id": "abc-1"})
    assert answer.json()["id"] == "cmpl-abc-1"


def test_one_request_id_twice_at_the_same_time(server: RunningServer) -> None:
    for _ in range(2):
        answer = post(server, PROMPT, headers={"x-request-id": "same"})
        assert answer.status_code == 200
    assert len(set(server.engine.served)) == 2


@pytest.mark.parametrize("path", ["/docs", "/docs/oauth2-redirect", "/redoc"])
def test_fastapis_pages_which_load_from_other_hosts_are_not_there(
    server: RunningServer, path: str
) -> None:
    with server.http() as client:
        check_error(client.get(path), 404, "NotFoundError", "/openapi.json has what there is")


def test_the_api_is_documented(server: RunningServer) -> None:
    with server.http() as client:
        document = client.get("/openapi.json").json()
    content = document["paths"]["/v1/completions"]["post"]["requestBody"]["content"]
    fields = content["application/json"]["schema"]["properties"]
    assert {"prompt", "top_k", "stream_options"} <= fields.keys()
    assert "$ref" not in json.dumps(content)
