"""Heads of requests that never end, wherever on a connection they begin, and ends that do not."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.running_server import RunningServer, wait_until
from tests.server.test_connections import BODY, HEAD, LONG, answer, connect, server_with

LONG_BODY = b"x" * 100_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder: Path = tmp_path_factory.mktemp("adapters")
    with server_with(folder, slow_client_seconds=LONG, max_header_bytes=4096) as server:
        yield server


def refused_head(length: int) -> bytes:
    """Of a request that is answered before its body comes."""
    head = HEAD.replace(b"/v1/completions", b"/nowhere")
    return head.replace(b"length: %d" % len(BODY), b"length: %d" % length)


def send_without_end(connection: socket.socket) -> None:
    connection.sendall(b"GET /")
    time.sleep(0.05)
    send_much(connection, b"x" * 8)


def send_much(connection: socket.socket, piece: bytes) -> None:
    for _ in range(64):  # 16 MiB, far more than the kernel's buffers take
        connection.sendall(piece * 2**15)


def test_behind_a_body_that_came_after_its_answer(server: RunningServer) -> None:
    with connect(server) as connection:
        connection.sendall(refused_head(len(BODY)))
        assert connection.recv(4096).startswith(b"HTTP/1.1 404")
        connection.sendall(BODY)
        with pytest.raises(ConnectionError):
            send_without_end(connection)


def test_behind_a_request_that_is_being_answered(server: RunningServer) -> None:
    server.engine.token_seconds = LONG
    with connect(server) as connection:
        connection.sendall(HEAD + BODY)
        wait_until(lambda: server.engine.running)
        server.engine.token_seconds = 0.0
        with pytest.raises(ConnectionError):
            send_without_end(connection)
    wait_until(lambda: not server.engine.running)


def test_a_long_body_that_nobody_waits_for_is_no_head(server: RunningServer) -> None:
    with connect(server) as connection:
        connection.sendall(refused_head(len(LONG_BODY)))
        assert connection.recv(4096).startswith(b"HTTP/1.1 404")
        connection.sendall(LONG_BODY + b"GET /hea")
        time.sleep(0.05)
        connection.sendall(b"lth HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert answer(connection).startswith(b"HTTP/1.1 200")


CHUNKED = HEAD.replace(b"content-length: %d" % len(BODY), b"transfer-encoding: chunked")


@pytest.mark.parametrize(
    ("begin", "more"), [(b"0\r\n", b"x: yyy\r\n"), (b"0\r\nx: ", b"y" * 8), (b"1;", b"y" * 8)]
)
def test_around_a_body_that_is_awaited(server: RunningServer, begin: bytes, more: bytes) -> None:
    with connect(server) as connection:
        connection.sendall(CHUNKED + b"1\r\n{\r\n" + begin)
        time.sleep(0.05)
        with pytest.raises(ConnectionError):
            send_much(connection, more)


def test_what_comes_behind_a_body_is_no_header(server: RunningServer) -> None:
    chunk = b"%x\r\n%s\r\n0\r\n" % (len(BODY), BODY)
    with connect(server) as connection:
        connection.sendall(CHUNKED + chunk + b"x-request-id: mine\r\nconnection: close\r\n\r\n")
        head = connection.recv(4096)
    assert head.startswith(b"HTTP/1.1 200")
    assert b"x-request-id: mine" not in head
