"""Large bodies are parsed, and large answers written, where they hold up no stream."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from fastapi import Request

from loramux.server.completions.request import parse_completion
from loramux.server.http.body import LARGE_BODY_BYTES, read_json
from loramux.server.http.errors import ApiError
from loramux.server.http.events import as_json
from loramux.server.http.large_json import json_with_list
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
    body = json_with_list(whole, "choices", [choice, choice])
    assert body == as_json({**whole, "choices": [choice, choice]}).encode()
    assert max(lengths) < len(body) / 50
