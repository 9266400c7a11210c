"""TLS before one of uvicorn's protocols, which would not know of those that never get through it.

To uvicorn a connection is there once its handshake is over. Until then it would be bound by nothing
but a minute's patience of the event loop, and take a descriptor all the same.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from contextlib import suppress
from typing import Any

from loramux.logger import get_logger

log = get_logger(__name__)

LEAST = 16
"""Handshakes that may go on however many connections there are, so that more are told so."""


class TlsHandshake(asyncio.Protocol):
    """Takes a connection from the event loop and gives it back to be encrypted.

    Until that is done it counts as a connection. Where there are too many, the handshake that began
    first is given up: it is the one that stalls.
    """

    protocol: type[asyncio.Protocol]
    """uvicorn's, for what is encrypted."""
    context: ssl.SSLContext
    seconds: float
    most: float
    """Connections at one time."""
    under_way: dict[TlsHandshake, None]
    """Of the whole server, in the order in which they began."""
    _socket: socket.socket
    _task: asyncio.Task[None]

    def __init__(self, **uvicorns: Any) -> None:
        self._uvicorns = uvicorns

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # ``start_tls`` would be too late for what the client has said by then, with uvloop.
        try:
            self._socket = _taken_from(transport)
        except OSError as error:
            log.warning("a connection is closed: %s", error.strerror)  # no descriptor is left
            return
        self._task = asyncio.get_running_loop().create_task(self._shake_hands())
        self.under_way[self] = None
        num_connections = len(self.under_way) + len(self._uvicorns["server_state"].connections)
        if num_connections > self.most and len(self.under_way) > LEAST:
            next(iter(self.under_way))._give_up()

    async def _shake_hands(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(
                lambda: self.protocol(**self._uvicorns),
                self._socket,
                ssl=self.context,
                ssl_handshake_timeout=self.seconds,
                ssl_shutdown_timeout=self.seconds,
            )
        except OSError:
            pass  # as those of ssl are, and of clients that leave or are too slow: their own affair
        finally:
            self.under_way.pop(self, None)

    def _give_up(self) -> None:
        self.under_way.pop(self)
        with suppress(OSError):  # the client has left
            self._socket.shutdown(socket.SHUT_RDWR)


def protocol_behind_tls(
    protocol: type[asyncio.Protocol], context: ssl.SSLContext, seconds: float, most: int | None
) -> type[asyncio.Protocol]:
    """The same protocol for encrypted connections; the listener itself is to know of no TLS.

    Args:
        seconds: for a handshake; at the end, for what is left to send and the client's farewell.
        most: connections and handshakes at one time. None is no bound.
    """
    settings = {
        "protocol": protocol,
        "context": context,
        "seconds": seconds,
        "most": float("inf") if most is None else most,
        "under_way": {},
    }
    return type("TlsProtocol", (TlsHandshake,), settings)


def _taken_from(transport: asyncio.BaseTransport) -> socket.socket:
    """A transport's connection, of which it has read nothing and never will.

    Raises:
        OSError: there is no descriptor for it; it is closed.
    """
    try:
        return socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
    finally:
        transport.abort()  # type: ignore[attr-defined]  # closes its own descriptor alone
