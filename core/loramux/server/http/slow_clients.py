"""Connections whose clients send or read too slowly are closed, and those that are too many.

uvicorn bounds how long a connection stays without a request. What is added here is a bound on how
long the headers of a request may take to come, on how long nothing is read of an answer, and on how
many connections there are.
"""

from __future__ import annotations

import asyncio
from collections import deque
from math import inf
from typing import Any, cast

from uvicorn.protocols.http.auto import AutoHTTPProtocol

LATE_SECONDS = 0.1
"""For what came in time while the event loop was too busy to look at it."""

REFUSED_BODY_BYTES = 32 * 1024 * 1024
"""What is read of a body after its request has been answered, so that the answer is seen."""

TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n"
    b"content-length: 0\r\n\r\n"
)


TOO_LONG = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n"
    b"content-length: 0\r\n\r\n"
)


class SlowClientLimits(asyncio.Protocol):
    """Stands before one of uvicorn's protocols, h11 or httptools, and ends what is too slow."""

    seconds: float
    most: float
    """Connections at one time."""
    most_head_bytes: float
    connections: set[Any]
    """uvicorn's, of the whole server."""
    loop: asyncio.AbstractEventLoop
    cycle: Any
    """uvicorn's request and answer; of the one before while none is under way."""
    _transport: asyncio.Transport
    _head_due: asyncio.TimerHandle | None = None
    _reads_head = False
    """A head has begun and has not ended, as httptools tells; h11 does not."""
    _is_mixed = False
    """The latest data hold the end of another request as well."""
    _num_bytes = 0
    """Of the head that is coming, or of a body that nobody waits for."""
    _tells_parts = False
    """Whether the parser does: httptools, not h11, which bounds all parts by itself."""
    _has_content = True
    """The latest data hold some of a body, or the end of its head."""
    _num_around = 0
    """Since then, of sizes of chunks and what follows the last one."""
    _answering: deque[Any]
    """Requests in their order, as httptools tells; only the first is under way."""
    _read_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but class
        self._answering = deque()
        super().connection_made(transport)
        self._await_head()
        if len(self.connections) > self.most:
            self._transport.write(TOO_MANY)
            self._transport.close()
            self._await_no_farewell()

    def data_received(self, data: bytes) -> None:
        if self._head_due is None and self._awaits_request():
            self._await_head()
        self._is_mixed = self._may_be_body()
        self._has_content = not self._tells_parts
        super().data_received(data)
        if not self._awaits_request():
            self._head_due = _ended(self._head_due)
        self._count(len(data))

    def on_message_begin(self) -> None:
        """Called by httptools."""
        self._reads_head, self._num_bytes, self._tells_parts = True, 0, True
        super().on_message_begin()  # type: ignore[misc]  # which asyncio's protocol has not

    def on_headers_complete(self) -> None:
        """Called by httptools."""
        self._reads_head, self._is_mixed, self._has_content = False, True, True
        super().on_headers_complete()  # type: ignore[misc]
        while self._answering and self._answering[0].response_complete:
            self._answering.popleft()
        self._answering.append(self.cycle)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by httptools, for trailers too, which uvicorn would add to the headers."""
        if self._reads_head:
            super().on_header(name, value)  # type: ignore[misc]

    def on_body(self, body: bytes) -> None:
        """Called by httptools."""
        self._has_content = True
        super().on_body(body)  # type: ignore[misc]

    def shutdown(self) -> None:
        """Called by uvicorn as the server ends."""
        super().shutdown()  # type: ignore[misc]
        if self._transport.is_closing() and not self._transport.get_write_buffer_size():
            self._await_no_farewell()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._read_due = self.loop.call_later(self.seconds, self._transport.abort)

    def resume_writing(self) -> None:
        self._read_due = _ended(self._read_due)
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_due = _ended(self._head_due)
        self._read_due = _ended(self._read_due)
        for cycle in self._answering:  # uvicorn tells the one that came last alone
            cycle.disconnected = cycle.disconnected or not cycle.response_complete
            cycle.message_event.set()
        super().connection_lost(exc)

    def _count(self, num_bytes: int) -> None:
        """h11 bounds headers that are still coming by itself; httptools keeps whatever comes."""
        most = self.most_head_bytes
        if self._reads_head:  # perhaps while the request before it is being answered
            self._num_bytes += 0 if self._is_mixed else num_bytes
        elif self._awaits_request():
            self._num_bytes += num_bytes
            most += REFUSED_BODY_BYTES * self._may_be_body()
        else:
            self._num_bytes = 0
        is_around = self._may_be_body() and not self._has_content
        self._num_around = self._num_around + num_bytes if is_around else 0
        is_too_long = self._num_bytes > most or self._num_around > self.most_head_bytes
        if is_too_long and not self._transport.is_closing():
            self._end_too_long()

    def _end_too_long(self) -> None:
        if self._awaits_request():
            self._transport.write(TOO_LONG)
            self._transport.close()
        else:  # the answer that is under way has no end
            self._transport.abort()

    def _may_be_body(self) -> bool:
        """Whether what comes next may be of a body, of one that was refused, too."""
        return self.cycle is not None and self.cycle.more_body and not self._reads_head

    def _await_head(self) -> None:
        self._head_due = self.loop.call_later(self.seconds, self._look_once_more)

    def _look_once_more(self) -> None:
        """The loop reads what has come before it gets back to this connection's timer."""
        self._head_due = self.loop.call_later(LATE_SECONDS, self._transport.abort)

    def _await_no_farewell(self) -> None:
        """With TLS, what is closed stays until the client says so, too, which it need not."""
        self.loop.call_later(LATE_SECONDS, self._transport.abort)

    def _awaits_request(self) -> bool:
        return self.cycle is None or self.cycle.response_complete


def protocol_with_limits(
    seconds: float, most: int | None = None, most_head_bytes: int | None = None
) -> type[asyncio.Protocol]:
    """uvicorn's protocol, whichever is installed, for clients that keep to the limits.

    Args:
        seconds: for headers to come, and between two reads of an answer.
        most: connections at one time; more are answered 503 and closed. None is no bound.
        most_head_bytes: of a request that is still coming. None is no bound.
    """
    limits = {"seconds": seconds, "most": most or inf, "most_head_bytes": most_head_bytes or inf}
    return type("BoundedProtocol", (SlowClientLimits, AutoHTTPProtocol), limits)


def _ended(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """What stands in the place of a timer that is not to run any more."""
    if timer is not None:
        timer.cancel()
    return None
