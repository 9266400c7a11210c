"""Slow clients, long headers, many at a time and TLS: a connection is its own affair."""

from __future__ import annotations

import errno
import os
import resource
import select
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
"""Of the server that cuts off, in seconds."""

LONG = 600
"""Seconds that no test lasts: a bound that plays no part in it."""

BODY = b'{"model": "base", "prompt": "ab", "max_tokens": 1}'
HEAD = (
    b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n" % len(BODY)
)
GET = b"GET /health HTTP/1.1\r\nhost: x\r\nx-long: " + b"y" * 1000
"""Without its end. To drip it takes a hundred times PATIENCE, as it does for this body:"""

REST = b" " * 1000
HEAD_OF_REST = HEAD.replace(b"length: %d" % len(BODY), b"length: %d" % len(REST))
DRIPS = [(b"", GET), (b"GET ", GET[4:]), (HEAD_OF_REST, REST)]
"""What is sent at once, and what comes of it byte by byte."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Waits for nobody. What it should answer must come in time, so it is asked for little."""
    folder = tmp_path_factory.mktemp("adapters")
    with server_with(folder, slow_client_seconds=PATIENCE, keep_alive_seconds=1) as server:
        yield server


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("adapters")
    limits = {"slow_client_seconds": LONG, "keep_alive_seconds": LONG, "max_header_bytes": 4096}
    with server_with(folder, **limits) as server:
        yield server


def connect(server: RunningServer) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def server_with(tmp_path: Path, **options: Any) -> Any:
    limits = ConnectionOptions(**options)
    return running(state_around(FakeEngine(), FolderResolver(tmp_path), connections=limits))


def answer(connection: socket.socket) -> bytes:
    """All that comes until the server closes; nothing if it resets the connection."""
    try:
        return b"".join(iter(lambda: connection.recv(65536), b""))
    except ConnectionError:
        return b""


def drip(connection: socket.socket, data: bytes, is_over: threading.Event) -> int:
    """One byte at a time, often enough to look alive; how many could be sent."""
    for num_sent, byte in enumerate(data):
        if is_over.wait(PATIENCE / 10):
            return num_sent
        try:
            connection.sendall(bytes([byte]))
        except OSError:
            return num_sent
    return len(data)


@pytest.mark.parametrize(("sent_at_once", "rest"), [*DRIPS, (HEAD + BODY + b"GET ", GET[4:])])
def test_who_drips_is_cut_off(server: RunningServer, sent_at_once: bytes, rest: bytes) -> None:
    is_over = threading.Event()
    started = time.monotonic()
    with connect(server) as slow, ThreadPoolExecutor(1) as thread:
        slow.sendall(sent_at_once)
        dripping = thread.submit(drip, slow, rest, is_over)
        received = answer(slow)
        is_over.set()
    assert time.monotonic() - started > 0.9 * PATIENCE
    assert dripping.result() < len(rest)
    if rest == REST:
        assert received.startswith(b"HTTP/1.1 408")
    wait_until(lambda: server.state.queue.in_flight == 0)
    assert not server.engine.running


@pytest.mark.parametrize(("sent_at_once", "rest"), DRIPS)
def test_nobody_else_notices_who_drips(
    patient: RunningServer, sent_at_once: bytes, rest: bytes
) -> None:
    with connect(patient) as slow, patient.http() as quick:
        slow.sendall(sent_at_once)
        for byte in rest[:4]:
            slow.sendall(bytes([byte]))
            assert quick.get("/health").status_code == 200
        slow.setblocking(False)
        with pytest.raises(BlockingIOError):  # neither answered nor closed all the while
            slow.recv(1)


def test_who_sends_nothing_is_cut_off(server: RunningServer) -> None:
    started = time.monotonic()
    with connect(server) as silent:
        assert answer(silent) == b""
    assert time.monotonic() - started > 0.9 * PATIENCE


def test_an_idle_connection_is_kept_for_a_while(server: RunningServer) -> None:
    with connect(server) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        started = time.monotonic()
        assert answer(connection).startswith(b"HTTP/1.1 200")
        assert time.monotonic() - started > 0.9


def test_an_idle_connection_has_more_time_than_a_slow_one(tmp_path: Path) -> None:
    limits = {"slow_client_seconds": 2 * PATIENCE, "keep_alive_seconds": LONG}
    with server_with(tmp_path, **limits) as server, connect(server) as connection:
        for pause in (2 * PATIENCE + 0.3, 0):
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
            time.sleep(pause)


def test_an_answer_that_takes_longer_is_no_fault_of_the_clients(tmp_path: Path) -> None:
    with server_with(tmp_path, slow_client_seconds=2 * PATIENCE) as server:
        server.engine.token_seconds = 2 * PATIENCE + 0.3
        with server.http() as client:
            assert client.post("/v1/completions", content=BODY).status_code == 200


def test_who_does_not_read_an_answer_is_cut_off(server: RunningServer) -> None:
    body = b'{"model": "base", "prompt": "ab", "max_tokens": 250, "n": 100, "temperature": 1, ' \
           b'"stream": true, "logprobs": 5}'  # fmt: skip
    head = HEAD.replace(b"%d" % len(BODY), b"%d" % len(body))
    with connect(server) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(head + body)
        wait_until(lambda: server.state.queue.in_flight == 100)
        wait_until(lambda: server.state.queue.in_flight == 0)
        assert not server.engine.running
        with server.http() as client:
            assert client.get("/health").status_code == 200


@pytest.mark.parametrize("in_parts", [False, True])
def test_headers_that_are_too_long(patient: RunningServer, in_parts: bool) -> None:
    with connect(patient) as connection:
        head = b"GET /health HTTP/1.1\r\nhost: x\r\nx-long: " + b"y" * 6000
        connection.sendall(head if in_parts else head + b"\r\n\r\n")
        received = answer(connection)
    # Of those that come in parts h11 says 400.
    assert received.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400")[: 1 + in_parts])


def test_addresses_that_are_too_long(patient: RunningServer) -> None:
    with patient.http() as client:
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
    limits = ConnectionOptions(keep_alive_seconds=LONG)
    state = state_around(
        FakeEngine(), FolderResolver(tmp_path), max_queued_requests=50, connections=limits
    )
    with running(state) as server, server.http() as client:
        server.engine.is_held = True
        idle = [connect(server) for _ in range(200)]
        for connection in idle:
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        streams = [connect(server) for _ in range(200)]
        for connection in streams:
            connection.sendall(CLOSING + STREAM)
        wait_until(lambda: len(select.select(streams, [], [], 0)[0]) == 150)
        assert client.get("/health").status_code == 200
        assert len(server.engine.running) == 50
        server.engine.is_held = False
        received = [answer(connection) for connection in streams]
        assert all(connection.recv(4096).startswith(b"HTTP/1.1 200") for connection in idle)
        assert client.post("/v1/completions", content=BODY).status_code == 200
        for connection in [*idle, *streams]:
            connection.close()
        served = [one for one in received if one.startswith(b"HTTP/1.1 200")]
        refused = [one for one in received if one.startswith(b"HTTP/1.1 429")]
        assert (len(served), len(refused)) == (50, 150)
        assert all(b"[DONE]" in one for one in served)
        assert all(b"retry-after:" in one.lower() for one in refused)
        assert not server.engine.running
        wait_until(lambda: state.queue.in_flight == 0)


def test_more_connections_than_fit_are_turned_away(tmp_path: Path) -> None:
    with server_with(tmp_path, max_connections=3, keep_alive_seconds=LONG) as server:
        kept = [connect(server) for _ in range(3)]
        for connection in kept:
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        with connect(server) as late:
            received = answer(late)
            assert received.startswith(b"HTTP/1.1 503")
            assert b"retry-after: 1" in received
        kept.pop().close()
        with server.http() as client:
            wait_until(lambda: client.get("/health").status_code == 200)
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
        assert httpx.get(f"{url}/health", verify=trusting, timeout=60).status_code == 200
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"{server.url}/health")


def test_who_begins_a_handshake_and_stays_away_is_cut_off(
    certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    cert, key = certificate
    options = {"ssl_certfile": cert, "ssl_keyfile": key, "slow_client_seconds": PATIENCE}
    with server_with(tmp_path, **options) as server, connect(server) as connection:
        connection.settimeout(40)  # the event loop's own patience is 60 s
        assert answer(connection) == b""


def test_handshakes_that_stall_leave_room_for_others(
    certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    cert, key = certificate
    trusting = ssl.create_default_context(cafile=str(cert))
    limits = {"max_connections": 30, "slow_client_seconds": LONG, "keep_alive_seconds": LONG}
    with server_with(tmp_path, ssl_certfile=cert, ssl_keyfile=key, **limits) as server:
        stalled = [connect(server) for _ in range(50)]
        assert all(answer(connection) == b"" for connection in stalled[:20])
        url = server.url.replace("http:", "https:")
        assert httpx.get(f"{url}/health", verify=trusting, timeout=60).status_code == 200
        assert not select.select(stalled[21:], [], [], 0)[0]
        for connection in stalled:
            connection.close()


def test_without_a_descriptor_left_a_connection_is_closed(
    certificate: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cert, key = certificate

    def no_more(descriptor: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with server_with(tmp_path, ssl_certfile=cert, ssl_keyfile=key) as server:
        monkeypatch.setattr("loramux.server.http.tls.os.dup", no_more)
        with connect(server) as connection:
            assert answer(connection) == b""


def test_who_is_turned_away_or_idle_need_not_say_farewell(
    certificate: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cert, key = certificate
    trusting = ssl.create_default_context(cafile=str(cert))
    limits = {"max_connections": 1, "slow_client_seconds": LONG, "keep_alive_seconds": LONG}
    with server_with(tmp_path, ssl_certfile=cert, ssl_keyfile=key, **limits) as server:
        kept = trusting.wrap_socket(connect(server), server_hostname="127.0.0.1")
        late = trusting.wrap_socket(connect(server), server_hostname="127.0.0.1")
        assert late.recv(4096).startswith(b"HTTP/1.1 503")
        with socket.socket(fileno=late.detach()) as silent:
            silent.settimeout(20)  # the event loop's own patience is 30 s
            answer(silent)  # to its end
        kept.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert kept.recv(4096).startswith(b"HTTP/1.1 200")
    assert "graceful shutdown exceeded" not in caplog.text  # one that is kept does not delay it
    kept.close()


def test_clients_must_show_a_certificate(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    cert, key = certificate
    options = {"ssl_certfile": cert, "ssl_keyfile": key, "ssl_ca_certs": cert, "ssl_cert_reqs": 2}
    with server_with(tmp_path, **options) as server:
        url = server.url.replace("http:", "https:") + "/health"
        stranger = ssl.create_default_context(cafile=str(cert))
        with pytest.raises(httpx.HTTPError):
            httpx.get(url, verify=stranger, timeout=60)
        known = ssl.create_default_context(cafile=str(cert))
        known.load_cert_chain(cert, key)
        assert httpx.get(url, verify=known, timeout=60).status_code == 200


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
