"""``loramux serve`` as a process of its own."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import httpx


class ServerEndedError(Exception):
    """The server is no more; its standard error tells why."""


@dataclass
class ServerProcess:
    process: subprocess.Popen[str]
    ready_line: str

    @property
    def url(self) -> str:
        (url,) = re.findall(r"http://\S+", self.ready_line)
        return url

    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, verify=False)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end, and wait until it has."""
        self.process.send_signal(number)
        return self.process.wait(timeout=60)


@contextmanager
def serving(
    *words: str,
    module: Sequence[str] = ("loramux", "serve"),
    port: int = 0,
    **environment: str,
) -> Iterator[ServerProcess]:
    """Start a server on a port, or on a free one, and wait for its ready line.

    Raises:
        ServerEndedError: it ended before that.
    """
    with subprocess.Popen(
        [sys.executable, "-m", *module, *words, "--port", str(port)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    ) as process:
        lines: queue.Queue[str | None] = queue.Queue()
        reader = threading.Thread(target=_read, args=(process, lines))
        reader.start()
        try:
            ready_line = lines.get(timeout=240)
            if ready_line is None:
                raise ServerEndedError(f"it ended with status {process.wait()} at its start")
            yield ServerProcess(process, ready_line)
        finally:
            process.kill()
            process.wait()
            reader.join()


def _read(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line.strip())
    lines.put(None)  # or somebody would wait for the ready line of a server that has ended
