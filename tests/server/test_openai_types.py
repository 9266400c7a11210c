"""Every answer has the official client's types, and a stream tells what a whole answer does."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import product
from typing import Any

import openai
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.chat_completion_token_logprob import ChatCompletionTokenLogprob

from tests.server.running_server import RunningServer

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]

CHATS = [
    {"messages": HELLO, "max_tokens": 4, "n": n, "logprobs": logprobs, **top}
    for n, (logprobs, top) in product(
        (1, 3), [(False, {}), (True, {}), (True, {"top_logprobs": 0}), (True, {"top_logprobs": 2})]
    )
]
TEXTS = [
    {"prompt": prompt, "n": n, "echo": echo, "logprobs": logprobs, "max_tokens": max_tokens}
    for prompt, n, echo, logprobs, max_tokens in product(
        ("hello", ["ab", "cd"], [[71, 72], [73]]), (1, 2), (False, True), (None, 0, 2), (3,)
    )
] + [
    {"prompt": ["ab", "c"], "echo": True, "logprobs": logprobs, "max_tokens": 0}
    for logprobs in (None, 0, 2)
]


def post(server: RunningServer, path: str, body: dict[str, Any]) -> dict[str, Any]:
    with server.http() as http:
        response = http.post(path, json={"model": "base", **body})
    assert response.status_code == 200, response.text
    return response.json()


def stream(server: RunningServer, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    with server.http() as http:
        response = http.post(path, json={"model": "base", **body, **options})
    assert response.status_code == 200, response.text
    events = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert events.pop() == "[DONE]"
    return [json.loads(event) for event in events]


def check_ends(chunks: list[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    """Choices by index; each ends once, usage comes last and alone."""
    *before, last = chunks
    assert last["choices"] == []
    assert all(chunk["usage"] is None for chunk in before)
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    choices = defaultdict(list)
    for chunk in before:
        (choice,) = chunk["choices"]
        choices[choice["index"]].append(choice)
    for each in choices.values():
        *running, end = [choice["finish_reason"] for choice in each]
        assert set(running) <= {None}
        assert end is not None
    return choices


@pytest.mark.parametrize("body", CHATS, ids=str)
def test_chats(server: RunningServer, body: dict[str, Any]) -> None:
    whole = post(server, CHAT, body)
    chunks = stream(server, CHAT, body)
    answer = ChatCompletion.model_validate(whole)
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk)
    pieces = check_ends(chunks)
    assert [choice.index for choice in answer.choices] == sorted(pieces) == [*range(body["n"])]
    assert chunks[-1]["usage"] == whole["usage"]
    for choice in whole["choices"]:
        told = pieces[choice["index"]]
        assert [piece["delta"].get("role") for piece in told] == ["assistant"] + [None] * (
            len(told) - 1
        )
        text = "".join(piece["delta"].get("content") or "" for piece in told)
        assert text == choice["message"]["content"]
        assert told[-1]["finish_reason"] == choice["finish_reason"]
        check_chat_logprobs(body, choice, told)


def check_chat_logprobs(
    body: dict[str, Any], choice: dict[str, Any], told: list[dict[str, Any]]
) -> None:
    if not body["logprobs"]:
        assert choice["logprobs"] is None
        assert all(piece["logprobs"] is None for piece in told)
        return
    content = choice["logprobs"]["content"]
    lists = [piece["logprobs"]["content"] for piece in told if piece["logprobs"]]
    assert [entry for entries in lists for entry in entries] == content
    assert "".join(entry["token"] for entry in content) == choice["message"]["content"]
    for entry in content:
        ChatCompletionTokenLogprob.model_validate(entry)
        assert len(entry["top_logprobs"]) == body.get("top_logprobs", 0)
        assert bytes(entry["bytes"]).decode() == entry["token"]


@pytest.mark.parametrize("body", TEXTS, ids=str)
def test_completions(server: RunningServer, body: dict[str, Any]) -> None:
    whole = post(server, TEXT, body)
    chunks = stream(server, TEXT, body)
    for answer in (whole, *chunks):
        Completion.model_validate(without_gaps(answer))
    pieces = check_ends(chunks)
    assert chunks[-1]["usage"] == whole["usage"]
    assert [choice["index"] for choice in whole["choices"]] == sorted(pieces)
    for choice in whole["choices"]:
        told = pieces[choice["index"]]
        assert "".join(piece["text"] for piece in told) == choice["text"]
        assert told[-1]["finish_reason"] == choice["finish_reason"] == "length"
        check_logprobs(body, choice, told)


def check_logprobs(
    body: dict[str, Any], choice: dict[str, Any], told: list[dict[str, Any]]
) -> None:
    whole = choice["logprobs"]
    if body["logprobs"] is None:
        assert whole is None
        return
    for name in ("tokens", "token_logprobs", "text_offset"):
        assert [entry for piece in told for entry in piece["logprobs"][name]] == whole[name]
    assert "".join(whole["tokens"]) == choice["text"]
    for token, offset in zip(whole["tokens"], whole["text_offset"], strict=True):
        assert choice["text"][offset:].startswith(token)
    assert (whole["top_logprobs"] is None) == (body["logprobs"] == 0)
    nothing_before = body["echo"]
    assert (whole["token_logprobs"][0] is None) == nothing_before
    assert None not in whole["token_logprobs"][1:]


def without_gaps(answer: dict[str, Any]) -> dict[str, Any]:
    """Without the nulls that OpenAI's own server sends and the client's types do not provide for:
    of the first token of an echoed prompt, and of a stream's choice that goes on."""
    copy = json.loads(json.dumps(answer))
    for choice in copy["choices"]:
        choice["finish_reason"] = choice["finish_reason"] or "stop"
        for name in ("token_logprobs", "top_logprobs"):
            if choice["logprobs"] and choice["logprobs"][name]:
                choice["logprobs"][name] = [
                    entry for entry in choice["logprobs"][name] if entry is not None
                ]
    return copy


def test_best_of_may_be_n(server: RunningServer) -> None:
    answer = server.openai().completions.create(
        model="base", prompt="ab", n=2, best_of=2, max_tokens=2
    )
    assert len(answer.choices) == 2


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"suffix": "end"}, "'suffix' is not supported"),
        ({"best_of": 3, "n": 2}, "best_of must be n, which is 2"),
        ({"echo": True, "max_tokens": -1}, "max_tokens"),
        ({"logprobs": 21}, "logprobs"),
        ({"n": 129}, "n must be between"),
        ({"n": 2, "temperature": 0}, "n must be 1 when using greedy"),
    ],
)
def test_refusals_of_the_client(server: RunningServer, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(openai.BadRequestError, match=says):
        server.openai().completions.create(model="base", prompt="ab", **fields)


def test_usage_with_every_chunk(server: RunningServer) -> None:
    chunks = server.openai().chat.completions.create(
        model="base", messages=HELLO, max_tokens=3, stream=True,
        stream_options={"include_usage": True}, extra_body={
            "stream_options": {"include_usage": True, "continuous_usage_stats": True}
        },
    )  # fmt: skip
    counts = [chunk.usage.completion_tokens for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == 3


def test_no_usage_unless_asked(server: RunningServer) -> None:
    for extra in ({}, {"stream_options": {"include_usage": False}}, {"stream_options": None}):
        chunks = list(
            server.openai().completions.create(
                model="base", prompt="ab", max_tokens=2, stream=True, extra_body=extra
            )
        )
        assert [chunk.usage for chunk in chunks] == [None] * len(chunks)
