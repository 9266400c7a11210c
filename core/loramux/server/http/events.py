"""Server-sent events, as the OpenAI API streams them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from loramux.server.http.disconnect import while_connected

DONE = b"data: [DONE]\n\n"

as_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""JSON as events carry it; made once, since ``json.dumps`` would make an encoder each time."""


def event(payload: Mapping[str, Any]) -> bytes:
    """One ``data:`` event."""
    return f"data: {as_json(payload)}\n\n".encode()


class ChunkEvents:
    """The events of one stream: chunks of one choice each, the same but for the choice.

    All that stays is put into words once, so that a token costs little more than its text.

    Args:
        head: what every chunk begins with.
    """

    def __init__(self, head: Mapping[str, Any]) -> None:
        self._before = f'data: {as_json(head).removesuffix("}")},"choices":['

    def of(self, choice: str, usage: str = "") -> str:
        """One event.

        Args:
            choice: its JSON; empty for a chunk without one.
            usage: JSON of the chunk's ``usage``; empty for none.
        """
        return f"{self._before}{choice}{_after(usage)}"

    def parts(self, choice: Iterable[str], usage: str = "") -> Iterator[str]:
        """One event whose choice comes in parts, for one that is long."""
        yield self._before
        yield from choice
        yield _after(usage)


def _after(usage: str) -> str:
    """What the event of a chunk ends with."""
    return f'],"usage":{usage}}}\n\n' if usage else "]}\n\n"


class EventStreamResponse(StreamingResponse):
    """Streams ``events`` and calls ``release`` when it is over, however that comes about.

    ``events`` may never have been started when the client has already gone, so what it would
    free in a ``finally`` of its own is freed here.

    Raises:
        ClientDisconnect: the client has gone before the end.
    """

    def __init__(
        self,
        events: AsyncIterator[bytes],
        release: Callable[[], Awaitable[None]],
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(
            events,
            media_type="text/event-stream",
            headers={"cache-control": "no-cache", "x-accel-buffering": "no", **headers},
        )
        self._release = release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await while_connected(receive, self.stream_response(send))
        finally:
            await self._release()
