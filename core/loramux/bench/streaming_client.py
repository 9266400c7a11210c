"""A client of ``/v1/completions`` that notes when each token arrives.

It does as little as a client can: what it measures is the server. One connection a request, plain
HTTP/1.1 through h11, which uvicorn brings along.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import h11

from loramux.bench import BenchmarkError
from loramux.bench.random_tokenizer import count_tokens

_READ_BYTES = 1 << 16


@dataclass
class Answer:
    """What has come of one request so far; times are of ``time.perf_counter``."""

    sent: float = 0.0
    status: int = 0
    arrivals: list[float] = field(default_factory=list)
    """When each piece of text came."""
    tokens: list[int] = field(default_factory=list)
    """Tokens in each piece."""
    ended: float | None = None
    error: str = ""

    @property
    def time_to_first_token(self) -> float:
        """Seconds."""
        return self.arrivals[0] - self.sent

    @property
    def is_whole(self) -> bool:
        """Whether it was answered to the end, without an error."""
        return (
            self.ended is not None and self.status == 200 and not self.error and bool(self.tokens)
        )

    def check(self) -> None:
        """See that the server did what it was asked.

        Raises:
            BenchmarkError: it did not.
        """
        if not self.is_whole:
            reason = self.error or "without a token"
            raise BenchmarkError(
                f"The server ended a request with status {self.status}: {reason}; "
                "see that it serves these models, and try again."
            )


class StreamingClient:
    """Sends requests to one server.

    Args:
        base_url: of the server, with ``/v1`` or without.
        api_key: sent as bearer token, if there is one.

    Raises:
        BenchmarkError: the address is none.
    """

    def __init__(self, base_url: str, api_key: str | None = None) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BenchmarkError(
                f"--base-url must be like http://127.0.0.1:8000, got {base_url!r}."
            )
        self.host, self.tls = parts.hostname, parts.scheme == "https"
        self.port = parts.port or (443 if self.tls else 80)
        self._target = f"{parts.path.rstrip('/').removesuffix('/v1')}/v1/completions"
        self._headers = [("host", parts.netloc), ("content-type", "application/json")]
        if api_key:
            self._headers.append(("authorization", f"Bearer {api_key}"))

    async def complete(self, body: bytes, answer: Answer | None = None) -> Answer:
        """Send a request and fill ``answer`` as things arrive, also if this is cancelled.

        A server that cannot be reached is an ``error`` of the answer.
        """
        answer = answer or Answer()
        answer.sent = time.perf_counter()
        try:
            reader, writer = await asyncio.open_connection(
                self.host, self.port, ssl=self.tls or None
            )
        except OSError as error:
            answer.error = f"it cannot be reached ({error})"
            return answer
        try:
            await self._exchange(reader, writer, body, answer)
        except (OSError, h11.RemoteProtocolError) as error:
            answer.error = f"the connection broke ({error})"
        finally:
            writer.close()
        return answer

    def request(self, body: bytes) -> bytes:
        """All that is sent for one request on a connection of its own."""
        return self._sent(h11.Connection(h11.CLIENT), body)

    def _sent(self, connection: h11.Connection, body: bytes) -> bytes:
        headers = [*self._headers, ("content-length", str(len(body))), ("connection", "close")]
        request = h11.Request(method="POST", target=self._target, headers=headers)
        parts = (request, h11.Data(data=body), h11.EndOfMessage())
        return b"".join(connection.send(part) or b"" for part in parts)

    async def _exchange(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        body: bytes,
        answer: Answer,
    ) -> None:
        connection = h11.Connection(h11.CLIENT)
        writer.write(self._sent(connection, body))
        pieces = EventPieces()
        while answer.ended is None:
            data = await reader.read(_READ_BYTES)
            now = time.perf_counter()
            connection.receive_data(data)
            for event in _events(connection):
                _take(event, answer, pieces, now)


class EventPieces:
    """Cuts a body into the payloads of its server-sent events."""

    def __init__(self) -> None:
        self._rest = b""

    def push(self, data: bytes) -> Iterator[Any]:
        """The payloads that are whole by now; ``[DONE]`` is none."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
                yield json.loads(line[5:])

    def finish(self) -> bytes:
        """What is left: the whole body of an answer that is no stream."""
        return self._rest


def completion_body(
    model: str, prompt: Sequence[int], max_tokens: int, *, with_usage: bool = False
) -> bytes:
    """A request for exactly ``max_tokens`` greedy tokens, streamed.

    ``with_usage`` asks for their number at the end.
    """
    fields: dict[str, Any] = {
        "model": model,
        "prompt": list(prompt),
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    if with_usage:
        fields["stream_options"] = {"include_usage": True}
    return json.dumps(fields).encode()


def _events(connection: h11.Connection) -> Iterator[Any]:
    while (event := connection.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
        yield event
        if isinstance(event, h11.ConnectionClosed):
            return


def _take(event: Any, answer: Answer, pieces: EventPieces, now: float) -> None:
    if isinstance(event, h11.Response):
        answer.status = event.status_code
    elif isinstance(event, h11.Data):
        for payload in pieces.push(bytes(event.data)):
            _note(payload, answer, now)
    elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
        answer.ended = answer.ended or now
        if answer.status != 200:
            answer.error = pieces.finish().decode(errors="replace")[:300]


def _note(payload: Any, answer: Answer, now: float) -> None:
    if "error" in payload:
        answer.error = str(payload["error"])[:300]
    for choice in payload.get("choices", ()):
        if choice.get("text"):
            answer.arrivals.append(now)
            answer.tokens.append(count_tokens(choice["text"]))
