"""Clients that go away: what they asked for is freed, whenever they go."""

from __future__ import annotations

import asyncio
import json
import socket
import time

import httpx
import pytest

from loramux.server.http.disconnect import while_connected
from tests.server.running_server import RunningServer, wait_until


def raw_request(server: RunningServer, body: dict) -> socket.socket:
    url = httpx.URL(server.url)
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nhost: {url.host}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    connection = socket.create_connection((url.host, url.port))
    connection.sendall(head.encode() + content)
    return connection


@pytest.mark.parametrize("prompt", ["ab", ["ab", "cd", "ef"]])
@pytest.mark.parametrize("stream", [False, True])
def test_leaving_while_tokens_come(
    server: RunningServer, prompt: str | list[str], stream: bool
) -> None:
    server.engine.token_seconds = 0.02
    body = {"prompt": prompt, "max_tokens": 200, "stream": stream}
    connection = raw_request(server, body)
    if stream:
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
    else:
        wait_until(lambda: server.engine.running)
    server.engine.is_held = True  # or they would end by themselves
    connection.close()
    wait_until(lambda: not server.engine.running)
    assert len(server.engine.served) == (1 if prompt == "ab" else 3)


def test_leaving_before_the_first_token(server: RunningServer) -> None:
    server.engine.is_held = True
    connection = raw_request(server, {"prompt": "ab", "stream": True})
    wait_until(lambda: server.engine.running)
    connection.close()
    wait_until(lambda: not server.engine.running)


def test_an_openai_stream_that_is_closed_early(server: RunningServer) -> None:
    server.engine.token_seconds = 0.02
    client = server.openai()
    stream = client.completions.create(model="base", prompt="ab", max_tokens=200, stream=True)
    next(iter(stream))
    server.engine.is_held = True
    stream.close()
    wait_until(lambda: not server.engine.running)


def test_leaving_in_the_middle_of_the_body_is_no_error(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    url = httpx.URL(server.url)
    connection = socket.create_connection((url.host, url.port))
    connection.sendall(
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"content-length: 1000\r\n\r\n{"
    )
    time.sleep(0.1)
    connection.close()
    with server.http() as client:
        assert client.post("/v1/completions", json={"prompt": "ab"}).status_code == 200
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_leaving_with_another_request_behind_is_no_error(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.engine.token_seconds = 0.02
    connection = raw_request(server, {"prompt": "ab", "max_tokens": 200, "stream": True})
    assert connection.recv(4096).startswith(b"HTTP/1.1 200")
    connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
    time.sleep(0.05)
    connection.close()
    wait_until(lambda: not server.engine.running)
    time.sleep(0.05)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


class _BodyEnds(Exception):
    pass


async def _body_that_never_ends() -> dict:
    await asyncio.sleep(0)
    raise _BodyEnds


async def _silence() -> dict:
    return await asyncio.Event().wait()


def test_what_ends_a_request_ends_its_work() -> None:
    ended = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    with pytest.raises(_BodyEnds):
        asyncio.run(while_connected(_body_that_never_ends, work()))
    assert ended == [True]


def test_who_is_cancelled_is_not_told_that_the_client_has_gone() -> None:
    async def cancelled_amid_work() -> None:
        waiting = asyncio.create_task(while_connected(_silence, _silence()))
        await asyncio.sleep(0)
        waiting.cancel()
        await waiting

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled_amid_work())


def test_work_that_cancels_itself_is_not_the_client() -> None:
    async def work() -> None:
        raise asyncio.CancelledError

    async def waiting() -> None:
        with pytest.raises(asyncio.CancelledError):
            await while_connected(_silence, work())

    asyncio.run(waiting())
