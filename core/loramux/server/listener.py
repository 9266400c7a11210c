"""The address of a server, taken before a model loads and opened once there is one."""

from __future__ import annotations

import socket

from loramux.errors import LoramuxError

BACKLOG = 8192
"""Connections the kernel holds until they are accepted, if it holds so many (somaxconn)."""


def listen(host: str, port: int) -> socket.socket:
    """Take the address, without answering anybody yet: a taken one is told before a model loads.

    Raises:
        LoramuxError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise _no_address(f"{host}:{port}", error) from error
    return listener


def open_listener(listener: socket.socket) -> None:
    """Let connections come.

    Raises:
        LoramuxError: two servers had taken the address, and the other was the first to open it.
    """
    try:
        listener.listen(BACKLOG)
    except OSError as error:
        raise _no_address(address_of(listener), error) from error


def address_of(listener: socket.socket) -> str:
    """Host and port, as a URL has them."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _no_address(address: str, error: Exception) -> LoramuxError:
    return LoramuxError(
        f"The address {address} cannot be listened on ({str(error).rstrip('.')}); choose another "
        "--host or --port."
    )
