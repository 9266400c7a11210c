"""The client that measures: what it reads out of a stream, and what it makes of failures."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import pytest

from loramux.bench import BenchmarkError
from loramux.bench.streaming_client import Answer, StreamingClient, completion_body
from tests.bench.fake_server import HEAD, PAUSE, answering, chunk, event

DONE = b"data: [DONE]\n\n"
END = b"0\r\n\r\n"


def ask(
    pieces: Sequence[bytes], path: str = "", api_key: str | None = None
) -> tuple[Answer, bytes]:
    """The answer to one request, and what the server saw of it."""
    received: list[bytes] = []

    async def run() -> Answer:
        async with answering(pieces, received) as url:
            client = StreamingClient(url + path, api_key)
            return await client.complete(completion_body("base", [1, 2, 3], 4))

    answer = asyncio.run(run())
    return answer, received[0]


def test_pieces_are_noted_when_they_arrive() -> None:
    two = event(" 000001 000002")
    answer, _ = ask(
        [HEAD, chunk(event(" 000007")), chunk(two), chunk(event("")), chunk(DONE) + END]
    )
    answer.check()
    assert answer.tokens == [1, 2]
    first, second = answer.arrivals
    assert answer.sent < first < second
    assert second - first >= 0.8 * PAUSE
    assert answer.ended is not None
    assert answer.ended >= second + 1.6 * PAUSE
    assert answer.time_to_first_token == first - answer.sent


def test_an_event_that_is_cut_anywhere_counts_when_it_is_whole() -> None:
    whole = chunk(event(" 000001"))
    for cut in (1, 3, 10, len(whole) - 4):
        answer, _ = ask([HEAD, whole[:cut], whole[cut:], chunk(DONE) + END])
        assert answer.tokens == [1]
        assert answer.arrivals[0] - answer.sent >= 1.6 * PAUSE


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
def test_the_request(path: str) -> None:
    _, received = ask([HEAD, chunk(event("x")) + END], path, api_key="k")
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/completions HTTP/1.1\r\n")
    assert b"authorization: Bearer k" in head
    assert json.loads(body) == {
        "model": "base", "prompt": [1, 2, 3], "max_tokens": 4, "temperature": 0,
        "ignore_eos": True, "stream": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("pieces", "says"),
    [
        ([b'HTTP/1.1 404 Not Found\r\ncontent-length: 14\r\n\r\n{"error": "x"}'], "404: .*error"),
        ([HEAD + chunk(b'data: {"error": {"message": "adapter broken"}}\n\n') + END], "broken"),
        ([HEAD + chunk(DONE) + END], "without a token"),
        ([HEAD + chunk(event("x"))], "the connection broke"),
        ([b"SSH-2.0\r\n\r\n"], "the connection broke"),
    ],
)
def test_what_is_no_answer(pieces: Sequence[bytes], says: str) -> None:
    answer, _ = ask(pieces)
    assert not answer.is_whole
    with pytest.raises(BenchmarkError, match=says):
        answer.check()


def test_a_server_that_is_not_there() -> None:
    answer = asyncio.run(StreamingClient("http://127.0.0.1:9").complete(b"{}"))
    with pytest.raises(BenchmarkError, match="cannot be reached"):
        answer.check()


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x", "http://"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(BenchmarkError, match="--base-url must be like"):
        StreamingClient(url)
