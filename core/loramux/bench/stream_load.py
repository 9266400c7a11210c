"""Many streams at once, from a process of its own.

What it measures is the server, so while streams run it does nothing but keep what comes. A client
that read each event as it came would need more of a core than the server does to send it.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, cast

import h11

from loramux.bench import BenchmarkError
from loramux.bench.streaming_client import EventPieces, StreamingClient
from loramux.server.interpreter import loop_factory

ANSWER_SECONDS = 1800.0
"""Far longer than any answer takes; a server that hangs does not hang the benchmark for ever."""


@dataclass(frozen=True)
class Load:
    """What came of all streams of one run: tokens, and the events with text that they came in.

    ``seconds`` are from the first connection to the end of the last answer; ``client_seconds`` is
    how long the client computed meanwhile.
    """

    tokens: int
    events: int
    seconds: float
    client_seconds: float


@contextmanager
def client_process() -> Iterator[Executor]:
    """A process for :func:`run_streams`, so that it shares no interpreter with an engine."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        yield process


def run_streams(client: StreamingClient, bodies: Sequence[bytes]) -> Load:
    """Send all requests at once, each on a connection of its own, and read the answers.

    Raises:
        BenchmarkError: a request fails, or its stream does not end, or without its token counts.
    """
    requests = [client.request(body) for body in bodies]
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        began, computed = time.perf_counter(), time.process_time()
        answers = runner.run(_exchange_all(client, requests))
        seconds, client_seconds = time.perf_counter() - began, time.process_time() - computed
    counts = [_tokens_and_events(answer) for answer in answers]
    tokens, events = (sum(column) for column in zip(*counts, strict=True))
    return Load(tokens, events, seconds, client_seconds)


class _Exchange(asyncio.Protocol):
    """Sends a request and keeps all bytes of the answer."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._parts: list[bytes] = []
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        self._parts.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.answer.done():
            self.answer.set_result(b"".join(self._parts))


async def _exchange_all(client: StreamingClient, requests: Sequence[bytes]) -> list[bytes]:
    context = ssl.create_default_context() if client.tls else None
    return await asyncio.gather(*(_exchange(client, request, context) for request in requests))


async def _exchange(
    client: StreamingClient, request: bytes, context: ssl.SSLContext | None
) -> bytes:
    try:
        transport, exchange = await asyncio.get_running_loop().create_connection(
            lambda: _Exchange(request), client.host, client.port, ssl=context
        )
    except OSError as error:
        raise BenchmarkError(
            f"The server cannot be reached ({error}); see that it runs and takes so many "
            "connections."
        ) from error
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await exchange.answer
    except TimeoutError as error:
        transport.abort()
        raise BenchmarkError(
            f"The server has not ended a stream in {ANSWER_SECONDS:g} s; see that it still "
            "computes, or ask it for fewer tokens."
        ) from error


def _tokens_and_events(answer: bytes) -> tuple[int, int]:
    """Tokens as the server counted them, and events with text."""
    status, body = _parsed(answer)
    pieces = EventPieces()
    payloads = list(pieces.push(body))
    usages = [payload["usage"] for payload in payloads if payload.get("usage")]
    if status != 200 or not usages or b"data: [DONE]" not in body:
        said = body[-300:].decode(errors="replace").strip() or "nothing"
        raise BenchmarkError(
            f"The server ended a stream with status {status} and without its token counts; it said "
            f"last: {said}"
        )
    with_text = sum(any(c.get("text") for c in payload["choices"]) for payload in payloads)
    return usages[-1]["completion_tokens"], with_text


def _parsed(answer: bytes) -> tuple[int, bytes]:
    """Status and body; 0 and nothing of a connection that was closed at once."""
    if not answer:
        return 0, b""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="POST", target="/", headers=[("host", "x")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(answer)
    status, parts = 0, []
    try:
        for event in _events(connection):
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                parts.append(bytes(event.data))
    except h11.RemoteProtocolError as error:
        raise BenchmarkError(f"The server's answer is no HTTP ({error}).") from error
    return status, b"".join(parts)


def _events(connection: h11.Connection) -> Iterator[Any]:
    ends = (h11.NEED_DATA, h11.PAUSED)
    while (event := connection.next_event()) not in ends and type(event) is not h11.EndOfMessage:
        yield event
