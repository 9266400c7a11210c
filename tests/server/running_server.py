"""A server on loopback, in a thread, for as long as a test needs it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import uvicorn

from loramux.server.app import build_app
from loramux.server.state import ServerState


@dataclass
class RunningServer:
    state: ServerState
    url: str

    @property
    def engine(self) -> Any:
        return self.state.engine

    @property
    def tokenizer(self) -> Any:
        return self.state.tokenizer._tokenizer

    # verify=False spares each client the reading of the system's certificates.

    def openai(self, **settings: Any) -> openai.OpenAI:
        client = openai.DefaultHttpxClient(verify=False)
        return openai.OpenAI(**self._settings(settings), http_client=client)

    def async_openai(self, **settings: Any) -> openai.AsyncOpenAI:
        client = openai.DefaultAsyncHttpxClient(verify=False)
        return openai.AsyncOpenAI(**self._settings(settings), http_client=client)

    def http(self, **settings: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, verify=False, **settings)

    def _settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        defaults = {"base_url": f"{self.url}/v1", "api_key": "none", "max_retries": 0}
        return {**defaults, **settings}


@contextmanager
def running(state: ServerState) -> Iterator[RunningServer]:
    config = uvicorn.Config(
        build_app(state),
        port=0,
        log_level="warning",
        lifespan="off",
        timeout_graceful_shutdown=2,
        **state.connections.uvicorn_settings(),
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="server-under-test")
    thread.start()
    try:
        wait_until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield RunningServer(state, f"http://127.0.0.1:{port}")
    finally:
        server.should_exit = True
        thread.join(timeout=60)
        state.tokenizer.close()
    assert not thread.is_alive()


def wait_until(condition: Any, seconds: float = 60.0) -> None:
    """Long, for a machine that is busy: it costs nothing where the event comes."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)
