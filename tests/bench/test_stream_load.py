"""Many streams at once: what came of them is counted, and nothing that failed counts as speed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from loramux.bench import BenchmarkError, stream_load
from loramux.bench.http_streams import _report
from loramux.bench.settings import Settings
from loramux.bench.stream_load import Load, run_streams
from loramux.bench.streaming_client import StreamingClient, completion_body
from loramux.bench.workload import Workload
from tests.bench.fake_server import HEAD, PAUSE, answering, chunk, event

USAGE = b'data: {"choices":[],"usage":{"completion_tokens":3}}\n\n'
DONE = b"data: [DONE]\n\n"
END = b"0\r\n\r\n"


def load(pieces: Sequence[bytes], streams: int = 1) -> tuple[Load, list[bytes]]:
    received: list[bytes] = []
    body = completion_body("base", [1, 2, 3], 4, with_usage=True)

    async def run() -> Load:
        async with answering(pieces, received, together=streams) as url:
            return await asyncio.to_thread(run_streams, StreamingClient(url), [body] * streams)

    return asyncio.run(run()), received


def test_streams_run_together() -> None:
    pieces = [HEAD, chunk(event(" 1 2")), chunk(event(" 3"))[:9], chunk(event(" 3"))[9:]]
    came, received = load([*pieces, chunk(USAGE), chunk(DONE) + END], 20)
    assert (came.tokens, came.events) == (60, 40)
    assert came.seconds > 4 * PAUSE
    assert 0 < came.client_seconds < came.seconds
    assert len(received) == 20
    assert all(b'"include_usage": true' in request for request in received)


@pytest.mark.parametrize(
    ("pieces", "says"),
    [
        ([b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 4\r\n\r\nbusy"], "429.*busy"),
        ([HEAD, chunk(event(" 1")), chunk(USAGE)], "token counts"),
        ([HEAD, chunk(event(" 1")), chunk(DONE) + END], "token counts"),
        ([b"what?\r\n\r\n"], "no HTTP"),
        ([], "status 0"),
    ],
)
def test_what_fails_is_no_measurement(pieces: list[bytes], says: str) -> None:
    with pytest.raises(BenchmarkError, match=says):
        load(pieces)


def test_a_stream_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_load, "ANSWER_SECONDS", PAUSE / 2)
    with pytest.raises(BenchmarkError, match="not ended a stream in"):
        load([HEAD, chunk(event(" 1"))], 2)


def test_streams_without_text() -> None:
    settings, workload = Settings(shape="tiny"), Workload([[1]], 4)
    with pytest.raises(BenchmarkError, match="carried tokens and no text"):
        _report(settings, workload, [1.0], [Load(4, 0, 1.0, 0.5)])


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(BenchmarkError, match="cannot be reached"):
        run_streams(StreamingClient("http://127.0.0.1:9"), [b"{}"])
