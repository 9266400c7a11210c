"""What an engine and its reading process say to each other.

Over a Unix socket that keeps messages apart. A request brings the socket its answer goes to, so
answers need no numbers, and whoever waits for one learns at once that the process has ended.
What is large lies in shared memory, whose descriptor travels ahead of the answer: who gets it can
map the memory while it is filled.
"""

from __future__ import annotations

import errno
import os
import pickle
import socket
from dataclasses import dataclass
from typing import Any

from loramux.errors import AdapterError

MAX_MESSAGE_BYTES = 2**16

READY = b"ready"


@dataclass(frozen=True)
class ReadRequest:
    """One adapter to read; the fields are the arguments of ``read_adapter``."""

    directory: str
    max_rank: int
    base_names: tuple[str, ...] | None
    max_bytes: int
    allowed_directories: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReadMemory:
    """Memory that an adapter is now read into; with it comes its descriptor.

    Args:
        num_bytes: its size so far; what the result names may lie behind it.
    """

    num_bytes: int


@dataclass(frozen=True)
class ReadResult:
    """An adapter that was read, into the memory that was named before.

    Args:
        num_bytes: size of that memory now.
        table_start: where in it the table of pairs begins, and behind that their scalings.
    """

    digest: str
    num_bytes: int
    table_start: int
    num_pairs: int


@dataclass(frozen=True)
class ReadError:
    """An error that reading in the engine's process would have ended in as well."""

    kind: type[AdapterError]
    message: str
    reason: str | None = None


@dataclass(frozen=True)
class NotReadHere:
    """An adapter that the engine's process must read: why."""

    reason: str


class NotReadError(Exception):
    """The adapter was not read there, through no fault of its own; reading it here is left."""


Answer = ReadResult | ReadError | NotReadHere


def is_supported() -> bool:
    """Whether this system has the sockets and the memory that processes share here."""
    return all(
        hasattr(module, name)
        for module, name in (
            (socket, "AF_UNIX"),
            (socket, "SOCK_SEQPACKET"),
            (socket, "send_fds"),
            (os, "memfd_create"),
        )
    )


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a connection; what is sent as one message arrives as one."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(connection: socket.socket, message: object, descriptor: int | None = None) -> None:
    """Send one message, and with it a descriptor.

    Raises:
        OSError: nobody listens any more, or the message is too long.
    """
    content = pickle.dumps(message)
    if len(content) > MAX_MESSAGE_BYTES:
        raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
    descriptors = [] if descriptor is None else [descriptor]
    socket.send_fds(connection, [content], descriptors, socket.MSG_NOSIGNAL)


def receive(connection: socket.socket) -> tuple[Any, int | None]:
    """Wait for one message and its descriptor, which is the caller's to close.

    Raises:
        EOFError: the other end is closed.
        OSError: the connection broke.
    """
    data, descriptors, _, _ = socket.recv_fds(
        connection, MAX_MESSAGE_BYTES, 1, socket.MSG_CMSG_CLOEXEC
    )
    if not data:
        raise EOFError
    return pickle.loads(data), descriptors[0] if descriptors else None
