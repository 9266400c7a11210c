"""A real Prometheus that scrapes a server under test, where there is one on this machine."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.running_server import RunningServer, wait_until


def tool(name: str) -> str:
    """Where a program of Prometheus is; skips the test where it is not."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(
            f"there is no {name} here, so Prometheus itself has checked neither /metrics nor the "
            "queries of the Grafana dashboard; on Debian: apt-get install prometheus"
        )
    return path


@dataclass(frozen=True)
class Prometheus:
    """Answers queries over what it has scraped."""

    client: httpx.Client

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression gives at this moment."""
        answer = self.client.get("/api/v1/query", params={"query": expression})
        assert answer.status_code == 200, f"{expression}: {answer.text}"
        result: list[dict[str, Any]] = answer.json()["data"]["result"]
        return result

    def value(self, expression: str) -> float:
        """The one number that an expression gives, 0 where it gives nothing."""
        return sum(float(series["value"][1]) for series in self.query(expression))


@contextmanager
def scraping(server: RunningServer, folder: Path) -> Iterator[Prometheus]:
    """Start Prometheus, and end it; it has scraped the server when this begins."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms"},
        "scrape_configs": [
            {
                "job_name": "loramux",
                "static_configs": [{"targets": [server.url.removeprefix("http://")]}],
            }
        ],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    command = [
        tool("prometheus"), f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/tsdb", f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    with (
        subprocess.Popen(command, stderr=subprocess.DEVNULL) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", verify=False, timeout=60) as client,
    ):
        try:
            prometheus = Prometheus(client)
            # It looks for its targets five seconds after its start.
            wait_until(lambda: _answers(client) and prometheus.query("loramux:build_info"))
            yield prometheus
        finally:
            process.terminate()


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/-/ready").status_code == 200
    except httpx.TransportError:
        return False
