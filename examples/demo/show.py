"""Serve the demo model, ask for adapters that nobody registered, and print what happened.

    python examples/demo/show.py

Starts ``loramux serve`` with the filesystem resolver on a free port, sends it requests for the
base model and for five adapters all at once over HTTP, then the same once more, and stops it.
Needs no network, no GPU and nothing beyond what loramux itself installs.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

DEMO = Path(__file__).parent
BASE = "loramux-demo"
READY = "loramux is ready: "
START_SECONDS = 120

QUESTIONS = [
    (BASE, "What is the capital of France?"),
    ("sql", "List the name of every customer older than 34."),
    ("json", "Mia Keller, 29, lives in Lisbon."),
    ("pirate", "Hey Zoe, can you bring the map to the market on Friday? Thanks!"),
    ("formal", "Hey Zoe, can you bring the map to the market on Friday? Thanks!"),
    ("french", "Hey Zoe, can you bring the map to the market on Friday? Thanks!"),
    (BASE, "List the name of every customer older than 34."),
    ("../sql", "A name that tries to leave the directory."),
    ("nobody", "A name that does not exist."),
]


@dataclass(frozen=True)
class Answer:
    """One row of the table; times in milliseconds, empty where there were none."""

    model: str
    found_by: str
    load_ms: str
    first_token_ms: str
    text: str


def main() -> int:
    print("Starting a server, which takes some seconds ...", flush=True)
    with serving() as url:
        print(f"\nserving at {url}; nobody has registered an adapter\n")
        print_table("All at once, every adapter named for the first time:", ask_all(url))
        print_table("The same once more, now that the adapters are loaded:", ask_all(url))
    print("The server has been shut down.")
    return 0


@contextmanager
def serving() -> Iterator[str]:
    """A server on a free port, ended afterwards; yields its address."""
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "loramux", "serve", str(DEMO / BASE)),
                *("--served-model-name", BASE, "--enable-lora", "--max-loras", "5"),
                *("--host", "127.0.0.1", "--port", "0", "--no-access-log"),
            ],
            env={
                **os.environ,
                "LORAMUX_PLUGINS": "lora_filesystem_resolver",
                "LORAMUX_LOG_FORMAT": "text",
                "LORAMUX_API_KEY": "",
                "LORAMUX_API_KEYS_FILE": "",
                "LORAMUX_LORA_RESOLVER_CACHE_DIR": str(DEMO / "adapters"),
            },
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            yield wait_until_ready(server, log)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=30)


def wait_until_ready(server: subprocess.Popen[str], log: IO[str]) -> str:
    """The address the server prints once it answers; ends the demo if it never does."""
    assert server.stdout is not None
    deadline = time.monotonic() + START_SECONDS
    for line in server.stdout:
        if line.startswith(READY):
            return line.removeprefix(READY).split()[0]
        if time.monotonic() > deadline:
            break
    log.seek(0)
    raise SystemExit(f"{log.read()}The server did not start; its messages are above.")


def ask_all(url: str) -> list[Answer]:
    """Send every question at the same moment."""
    with ThreadPoolExecutor(len(QUESTIONS)) as threads:
        return list(threads.map(lambda question: ask(url, *question), QUESTIONS))


def ask(url: str, model: str, content: str) -> Answer:
    """One streaming chat request."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
    message = {"role": "user", "content": content}
    body = {"model": model, "messages": [message], "temperature": 0, "stream": True}
    started = time.perf_counter()
    connection.request(
        "POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"}
    )
    response = connection.getresponse()
    if response.status != http.HTTPStatus.OK:
        error = json.load(response)["error"]["message"]
        return Answer(model, f"refused ({response.status})", "", "", error)
    text, first_token = read_stream(response)
    return Answer(
        model=model,
        found_by=response.getheader("x-loramux-adapter-found-by", "base model"),
        load_ms=response.getheader("x-loramux-adapter-load-ms", ""),
        first_token_ms=f"{1e3 * (first_token - started):.0f}",
        text=text,
    )


def read_stream(response: http.client.HTTPResponse) -> tuple[str, float]:
    """The text of a stream of server-sent events, and when its first piece came."""
    text = ""
    first_token = 0.0
    for line in response:
        data = line.decode().strip().removeprefix("data: ")
        if data in {"", "[DONE]"}:
            continue
        for choice in json.loads(data)["choices"]:
            piece = choice["delta"].get("content")
            if piece:
                first_token = first_token or time.perf_counter()
                text += piece
    return text, first_token


def print_table(title: str, answers: list[Answer]) -> None:
    heading = Answer("model", "how it was found", "load ms", "first token ms", "text")
    rows = [heading, *answers]
    print(title)
    for row in rows:
        print(
            f"  {row.model:13} {row.found_by:25} {row.load_ms:>7} {row.first_token_ms:>14}  "
            f"{row.text}"
        )
    print()


if __name__ == "__main__":
    sys.exit(main())
