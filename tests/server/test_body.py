"""Large bodies are parsed, and large answers written, where they hold up no stream."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import Request
from hypothesis import given, settings
from hypothesis import strategies as st

from loramux.sampling_params import SamplingParams
from loramux.server.completions.request import parse_completion
from loramux.server.generation.outputs_stream import PromptOutput
from loramux.server.generation.streaming import _events
from loramux.server.http import json_structure
from loramux.server.http.body import LARGE_BODY_BYTES, MAX_PARTS, read_json
from loramux.server.http.errors import ApiError
from loramux.server.http.events import as_json
from loramux.server.http.json_structure import num_parts
from loramux.server.http.large_json import PIECE_CHARS, PiecesResponse, json_with_list
from tests.server.conftest import FolderResolver, state_around
from tests.server.fake_engine import FakeEngine
from tests.server.running_server import running


def request_with(body: bytes) -> Request:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request({"type": "http", "headers": []}, receive)


def parsing_thread(body: bytes) -> str:
    request = request_with(body)
    return asyncio.run(read_json(request, lambda _: threading.current_thread().name))


def test_only_large_bodies_leave_the_event_loop() -> None:
    small, large = b"{}", b"{}" + b" " * LARGE_BODY_BYTES
    assert parsing_thread(small) == threading.current_thread().name
    assert parsing_thread(large).startswith("loramux-body")


def test_a_large_body_is_refused_in_the_same_words() -> None:
    with pytest.raises(ApiError, match="must be a JSON object"):
        asyncio.run(read_json(request_with(b"[]" + b" " * LARGE_BODY_BYTES), parse_completion))


def test_token_ids_of_a_large_body_are_checked_on_the_way(tmp_path: Path) -> None:
    token_ids = [1] * (LARGE_BODY_BYTES // 2)
    request = request_with(json.dumps({"prompt": token_ids}).encode())
    parsed = asyncio.run(read_json(request, parse_completion))
    assert parsed.texts == [token_ids]
    state = state_around(FakeEngine(), FolderResolver(tmp_path))
    with running(state) as server, server.http() as client:
        wrong = client.post("/v1/completions", json={"prompt": [*token_ids, "x"]})
        long = client.post("/v1/completions", json={"prompt": token_ids})
    assert (wrong.status_code, long.status_code) == (400, 400)
    assert "prompt must be a string" in wrong.json()["error"]["message"]
    assert str(len(token_ids)) in long.json()["error"]["message"]


def parsed(body: bytes) -> dict[str, Any]:
    return asyncio.run(read_json(request_with(body), lambda payload: payload))


@pytest.mark.parametrize("part", ["[]", "[0]", "{}", '{"a":0}', "[" * 100 + "]" * 100])
def test_a_body_that_is_all_structure_is_not_parsed(part: str) -> None:
    """Millions of empty arrays would keep the interpreter from everybody else for a second."""
    body = f'{{"prompt":[{",".join([part] * (MAX_PARTS // num_parts(part.encode()) + 1))}]}}'
    with pytest.raises(ApiError, match=f"at most {MAX_PARTS} are read"):
        parsed(body.encode())


def test_what_has_no_structure_may_be_as_long_as_before() -> None:
    text = '[{"a\\":[]}, "\\"]' * MAX_PARTS
    for prompt in ([1] * (4 * MAX_PARTS), ["x" * 100, text], [[1, 2]] * 1024):
        assert parsed(as_json({"prompt": prompt}).encode()) == {"prompt": prompt}


PLAIN = st.none() | st.booleans() | st.integers() | st.text(alphabet='a"\\[{:,}]\n\u00e9')
ANY_JSON = st.recursive(
    PLAIN, lambda some: st.lists(some) | st.dictionaries(st.text(alphabet='a"\\[{:'), some)
)


def counted(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + len(value) + sum(map(counted, value.values()))
    return 1 + sum(map(counted, value)) if isinstance(value, list) else 0


@settings(deadline=None)
@given(ANY_JSON, st.sampled_from([1, 7, 2**20]))
def test_structure_is_counted_outside_of_strings(value: Any, piece_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_structure, "PIECE_BYTES", piece_bytes)
        assert num_parts(json.dumps(value).encode()) == counted(value)


def test_no_part_of_a_large_answer_is_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One choice may hold millions of numbers; ``json`` lets no other thread go on meanwhile."""
    scores = [{str(token): {"logprob": -token / 7} for token in range(20)} for _ in range(1000)]
    choice = {"text": "é", "logprobs": {"top_logprobs": [None, *scores]}, "prompt_logprobs": scores}
    whole = {"id": "x", "prompt_logprobs": [None, *scores], "none": {}, "data": []}
    lengths = []

    def written(value: object) -> str:
        text = as_json(value)
        lengths.append(len(text))
        return text

    monkeypatch.setattr("loramux.server.http.large_json.as_json", written)
    monkeypatch.setattr("loramux.server.http.large_json.PIECE_CHARS", 1000)
    pieces = list(json_with_list(whole, "choices", [choice, choice]))
    body = as_json({**whole, "choices": [choice, choice]}).encode()
    assert b"".join(pieces) == body
    assert max(*lengths, *map(len, pieces)) < len(body) / 50


def test_others_go_on_while_a_large_answer_is_sent() -> None:
    sent, told = [], []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def other() -> None:
        while True:
            told.append(len(sent))
            await asyncio.sleep(0)

    async def answer() -> None:
        task = asyncio.create_task(other())
        response = PiecesResponse([b"[1", b",2", b",3", b"]"], {"x-of": "us"})
        await response({"type": "http"}, request_with(b"").receive, send)
        task.cancel()

    asyncio.run(answer())
    start, *bodies = sent
    assert dict(start["headers"])[b"content-length"] == b"7"
    assert dict(start["headers"])[b"content-type"] == b"application/json"
    assert dict(start["headers"])[b"x-of"] == b"us"
    assert b"".join(message.get("body", b"") for message in bodies) == b"[1,2,3]"
    assert [message.get("more_body", False) for message in bodies] == [True] * 4 + [False]
    assert set(told) >= {2, 3, 4}


def test_others_go_on_while_a_large_event_is_sent() -> None:
    """Also to a client that takes everything at once, so that nothing is waited for."""
    sent, told = [], []

    class Answer:
        def event_parts(self, item: PromptOutput) -> Iterator[str]:
            yield from ["x" * PIECE_CHARS] * 4

        def last_events(self) -> str:
            return ""

    async def other() -> None:
        while True:
            told.append(len(sent))
            await asyncio.sleep(0)

    async def rest() -> AsyncIterator[PromptOutput]:
        for _ in ():
            yield

    async def answer() -> None:
        task = asyncio.create_task(other())
        stream = SimpleNamespace(first=object(), rest=rest())
        generation = SimpleNamespace(params=[SamplingParams(prompt_logprobs=1)])
        watch = SimpleNamespace(saw=lambda item: None)
        async for piece in _events(stream, Answer(), generation, request_with(b""), watch):
            sent.append(piece)
        task.cancel()

    asyncio.run(answer())
    assert len(sent) == 5
    assert set(told) >= {1, 2, 3}


LARGE = {
    "completions": {"logprobs": 2, "echo": True},
    "prompts": {"prompt_logprobs": 1, "n": 2, "prompt": ["ab", "é", "c" * 100]},
    "stream": {"prompt_logprobs": 1, "logprobs": 1, "stream": True},
    "text": {},
    "generate": {},
}


@pytest.mark.parametrize("kind", LARGE)
def test_a_large_answer_is_the_same_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = "/generate" if kind == "generate" else "/v1/completions"
    body = {"prompt": "abc" * 20, "max_tokens": 9, **LARGE[kind]}
    num_pieces = []

    def in_pieces(parts: Iterable[str]) -> Iterator[bytes]:
        pieces = [text.encode() for text in parts]
        num_pieces.append(len(pieces))
        return iter(pieces)

    state = state_around(FakeEngine(), FolderResolver(tmp_path))
    with running(state) as server, server.http(headers={"x-request-id": "one"}) as client:
        usual = client.post(path, json=body)
        monkeypatch.setattr("loramux.server.generation.streaming.LARGE_TEXT_CHARS", 5)
        for module in ("generation.streaming", "http.large_json"):
            monkeypatch.setattr(f"loramux.server.{module}.in_pieces", in_pieces)
        large = client.post(path, json=body)
    assert usual.status_code == large.status_code == 200
    assert max(num_pieces) > 5
    assert words(large) == words(usual)


def words(response: httpx.Response) -> Any:
    """What an answer says, but for when."""
    text = re.sub(r'"created":\d+', '"created":0', response.text)
    return text if "text/event-stream" in response.headers["content-type"] else json.loads(text)


def test_no_part_of_nothing() -> None:
    assert b"".join(json_with_list({"id": "x"}, "data", [])) == b'{"id":"x","data":[]}'
