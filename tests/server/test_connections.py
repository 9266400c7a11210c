"""Slow clients, long headers, many at a time and TLS: a connection is its own affair."""

from __future__ import annotations

import resource
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from loramux.errors import InvalidRequestError
from loramux.server.descriptors import PLENTY, most_connections
from loramux.server.http.connections import ConnectionOptions
from tests.server.conftest import FolderResolver, state_around
from tests.server.fake_engine import FakeEngine
from tests.server.running_server import RunningServer, running, wait_until

PATIENCE = 0.5
BODY = b'{"model": "base", "prompt": "ab", "max_tokens": 1}'
HEAD = (
    b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n" % len(BODY)
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    limits = ConnectionOptions(
        slow_client_seconds=PATIENCE, keep_alive_seconds=1, max_header_bytes=4096
    )
    resolver = FolderResolver(tmp_path_factory.mktemp("adapters"))
    with running(state_around(FakeEngine(), resolver, connections=limits)) as server:
        yield server


def connect(server: RunningServer) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def server_with(tmp_path: Path, **options: Any) -> Any:
    limits = ConnectionOptions(**options)
    return running(state_around(FakeEngine(), FolderResolver(tmp_path), connections=limits))


def answer(connection: socket.socket) -> bytes:
    """All that comes until the server closes; nothing if it resets the connection."""
    try:
        return b"".join(iter(lambda: connection.recv(65536), b""))
    except ConnectionError:
        return b""


def drip(connection: socket.socket, data: bytes, is_over: threading.Event) -> None:
    """One byte at a time, often enough to look alive."""
    try:
        for byte in data:
            if is_over.wait(PATIENCE / 10):
                return
            connection.sendall(bytes([byte]))
    except OSError:
        return


@pytest.mark.parametrize("sent_at_once", [b"", b"GET ", HEAD, HEAD + BODY + b"GET /health"])
def test_who_drips_is_cut_off_and_nobody_else_notices(
    server: RunningServer, sent_at_once: bytes
) -> None:
    is_over = threading.Event()
    with connect(server) as slow, server.http() as quick:
        slow.sendall(sent_at_once)
        rest = BODY if sent_at_once == HEAD else b"x-header: " + b"y" * 1000
        dripping = threading.Thread(target=drip, args=(slow, rest, is_over))
        started = time.monotonic()
        dripping.start()
        while time.monotonic() - started < PATIENCE / 2:
            assert quick.get("/health").elapsed.total_seconds() < PATIENCE / 2
        received = answer(slow)
        elapsed = time.monotonic() - started
        is_over.set()
        dripping.join()
    assert elapsed < 4 * PATIENCE
    if sent_at_once == HEAD:
        assert received.startswith(b"HTTP/1.1 408")
    assert not server.engine.running
    assert server.state.queue.in_flight == 0


def test_who_sends_nothing_is_cut_off(server: RunningServer) -> None:
    with connect(server) as silent:
        started = time.monotonic()
        assert answer(silent) == b""
        assert PATIENCE / 2 < time.monotonic() - started < 4 * PATIENCE


def test_an_idle_connection_is_kept_for_a_while(server: RunningServer) -> None:
    with connect(server) as connection:
        for _ in range(2):
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
            time.sleep(PATIENCE * 1.2)
        started = time.monotonic()
        assert answer(connection) == b""
        assert time.monotonic() - started < 2


def test_an_answer_that_takes_longer_is_no_fault_of_the_clients(server: RunningServer) -> None:
    server.engine.token_seconds = PATIENCE * 2
    try:
        with server.http() as client:
            assert client.post("/v1/completions", content=BODY).status_code == 200
    finally:
        server.engine.token_seconds = 0.0


def test_who_does_not_read_an_answer_is_cut_off(server: RunningServer) -> None:
    body = b'{"model": "base", "prompt": "ab", "max_tokens": 250, "n": 100, "temperature": 1, ' \
           b'"stream": true, "logprobs": 5}'  # fmt: skip
    head = HEAD.replace(b"%d" % len(BODY), b"%d" % len(body))
    with connect(server) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(head + body)
        wait_until(lambda: server.state.queue.in_flight == 100)
        wait_until(lambda: server.state.queue.in_flight == 0, 8)
        assert not server.engine.running
        with server.http() as client:
            assert client.get("/health").status_code == 200


@pytest.mark.parametrize("in_parts", [False, True])
def test_headers_that_are_too_long(server: RunningServer, in_parts: bool) -> None:
    with connect(server) as connection:
        head = b"GET /health HTTP/1.1\r\nhost: x\r\nx-long: " + b"y" * 6000
        connection.sendall(head if in_parts else head + b"\r\n\r\n")
        received = answer(connection)
    # Of those that come in parts h11 says 400.
    assert received.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400")[: 1 + in_parts])


def test_addresses_that_are_too_long(server: RunningServer) -> None:
    with server.http() as client:
        refused = client.get(f"/v1/models/{'x' * 4000}?{'y' * 500}")
    assert refused.status_code == 431
    assert "--max-header-bytes" in refused.json()["error"]["message"]


# Many at a time


STREAM = b'{"prompt": "ab", "max_tokens": 20, "stream": true}'
CLOSING = HEAD.replace(b"%d" % len(BODY), b"%d" % len(STREAM)).replace(
    b"host: x", b"host: x\r\nconnection: close"
)


def test_a_flood_is_answered_to_the_last_and_leaves_nothing(tmp_path: Path) -> None:
    """Hundreds that only keep a connection, and more streams at once than are taken."""
    state = state_around(FakeEngine(), FolderResolver(tmp_path), max_queued_requests=50)
    with running(state) as server, server.http() as client:
        server.engine.token_seconds = 0.05
        idle = [connect(server) for _ in range(200)]
        for connection in idle:
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        streams = [connect(server) for _ in range(200)]
        for connection in streams:
            connection.sendall(CLOSING + STREAM)
        assert client.get("/health").elapsed.total_seconds() < 5
        received = [answer(connection) for connection in streams]
        assert all(connection.recv(4096).startswith(b"HTTP/1.1 200") for connection in idle)
        assert client.post("/v1/completions", content=BODY).status_code == 200
        for connection in [*idle, *streams]:
            connection.close()
        served = [one for one in received if one.startswith(b"HTTP/1.1 200")]
        refused = [one for one in received if one.startswith(b"HTTP/1.1 429")]
        assert len(served) >= 50
        assert refused
        assert len(served) + len(refused) == 200
        assert all(b"[DONE]" in one for one in served)
        assert all(b"retry-after:" in one.lower() for one in refused)
        assert not server.engine.running
        wait_until(lambda: state.queue.in_flight == 0)


def test_more_connections_than_fit_are_turned_away(tmp_path: Path) -> None:
    with server_with(tmp_path, max_connections=3) as server:
        kept = [connect(server) for _ in range(3)]
        for connection in kept:
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        with connect(server) as late:
            received = answer(late)
            assert received.startswith(b"HTTP/1.1 503")
            assert b"retry-after: 1" in received
        kept.pop().close()
        time.sleep(0.1)
        with server.http() as client:
            assert client.get("/health").status_code == 200
        for connection in kept:
            connection.close()


def test_the_limit_of_descriptors_is_raised_and_told(caplog: pytest.LogCaptureFixture) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1000), hard))
    try:
        with caplog.at_level("INFO"):
            most = most_connections()
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        assert limit == (PLENTY if hard == resource.RLIM_INFINITY else min(hard, PLENTY))
        assert limit // 2 <= most < limit
        assert f"up to {most} connections" in caplog.text
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    files = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
         "-out", str(files[0]), "-keyout", str(files[1])],
        check=True, capture_output=True,
    )  # fmt: skip
    return files


def test_tls(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    cert, key = certificate
    trusting = ssl.create_default_context(cafile=str(cert))
    with server_with(tmp_path, ssl_certfile=cert, ssl_keyfile=key) as server:
        url = server.url.replace("http:", "https:")
        assert httpx.get(f"{url}/health", verify=trusting).status_code == 200
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"{server.url}/health")


def test_clients_must_show_a_certificate(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    cert, key = certificate
    options = {"ssl_certfile": cert, "ssl_keyfile": key, "ssl_ca_certs": cert, "ssl_cert_reqs": 2}
    with server_with(tmp_path, **options) as server:
        url = server.url.replace("http:", "https:") + "/health"
        stranger = ssl.create_default_context(cafile=str(cert))
        with pytest.raises(httpx.HTTPError):
            httpx.get(url, verify=stranger)
        known = ssl.create_default_context(cafile=str(cert))
        known.load_cert_chain(cert, key)
        assert httpx.get(url, verify=known).status_code == 200


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        (lambda cert, key: {"ssl_keyfile": key}, "--ssl-certfile"),
        (lambda cert, key: {"ssl_certfile": cert}, "--ssl-keyfile"),
        (lambda cert, key: {"ssl_certfile": Path("/no/such")}, "/no/such"),
        (lambda cert, key: {"ssl_certfile": cert, "ssl_keyfile": key, "ssl_ca_certs": key},
         "--ssl-ca-certs"),
        (lambda cert, key: {"ssl_certfile": cert, "ssl_keyfile": key, "ssl_cert_reqs": 2},
         "--ssl-ca-certs"),
        (lambda cert, key: {"slow_client_seconds": 0}, "--slow-client-seconds"),
        (lambda cert, key: {"slow_client_seconds": float("nan")}, "--slow-client-seconds"),
        (lambda cert, key: {"keep_alive_seconds": -1}, "--keep-alive-seconds"),
        (lambda cert, key: {"max_header_bytes": 10}, "--max-header-bytes"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_meant(
    certificate: tuple[Path, Path], options: Callable[..., dict[str, Any]], flag: str
) -> None:
    with pytest.raises(InvalidRequestError, match=flag):
        ConnectionOptions(**options(*certificate))
