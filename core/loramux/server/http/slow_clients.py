"""Connections whose clients send or read too slowly are closed; nobody else notices them.

uvicorn bounds how long a connection stays without a request. What is added here is a bound on how
long the headers of a request may take to come, and on how long nothing is read of an answer.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.auto import AutoHTTPProtocol


class SlowClientLimits(asyncio.Protocol):
    """Stands before one of uvicorn's protocols, h11 or httptools, and ends what is too slow."""

    seconds: float
    loop: asyncio.AbstractEventLoop
    cycle: Any
    """uvicorn's request and answer; of the one before while none is under way."""
    _transport: asyncio.Transport
    _head_due: asyncio.TimerHandle | None = None
    _read_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but class
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        if self._head_due is None and self._awaits_request():
            self._await_head()
        super().data_received(data)
        if not self._awaits_request():
            self._head_due = _ended(self._head_due)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._read_due = self.loop.call_later(self.seconds, self._transport.abort)

    def resume_writing(self) -> None:
        self._read_due = _ended(self._read_due)
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_due = _ended(self._head_due)
        self._read_due = _ended(self._read_due)
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._head_due = self.loop.call_later(self.seconds, self._transport.abort)

    def _awaits_request(self) -> bool:
        return self.cycle is None or self.cycle.response_complete


def protocol_with_limits(seconds: float) -> type[asyncio.Protocol]:
    """uvicorn's protocol, whichever is installed, for clients that take no longer than that."""
    bases = (SlowClientLimits, AutoHTTPProtocol)
    return type("BoundedProtocol", bases, {"seconds": seconds})


def _ended(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """What stands in the place of a timer that is not to run any more."""
    if timer is not None:
        timer.cancel()
    return None
