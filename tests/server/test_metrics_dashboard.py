"""The dashboard in ``examples/`` asks for nothing that the server does not show."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.server.prometheus_process import scraping, tool
from tests.server.running_server import RunningServer, wait_until
from tests.server.scraping import Scrape

DASHBOARD = Path(__file__).parents[2] / "examples" / "grafana" / "loramux.json"


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    return json.loads(DASHBOARD.read_text())


def expressions(dashboard: dict[str, Any]) -> list[str]:
    panels = [
        target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])
    ]
    variables = [variable["query"] for variable in dashboard["templating"]["list"]]
    return panels + [query["query"] for query in variables if isinstance(query, dict)]


def selections(dashboard: dict[str, Any]) -> Iterator[tuple[str, set[str]]]:
    """Every metric that is asked for, with the labels it is chosen or grouped by."""
    for expression in expressions(dashboard):
        by = {name for group in re.findall(r"by \(([^)]*)\)", expression) for name in
              re.split(r",\s*", group)}  # fmt: skip
        for metric, chosen in re.findall(r"((?:loramux:|process_)\w+)(\{[^}]*\})?", expression):
            yield metric, by | set(re.findall(r"(\w+)(?:!?=|[=!]~)\"", chosen))


def test_every_metric_and_label_is_there(server: RunningServer, dashboard: dict[str, Any]) -> None:
    with server.http() as client:
        for body in ({"prompt": "ab", "max_tokens": 2}, {"prompt": "ab", "model": "nobody"}):
            client.post("/v1/completions", json=body)
    samples = Scrape.of(server).samples
    added_by_prometheus = {"job", "instance"}
    asked = list(selections(dashboard))
    assert len(asked) > 30
    for metric, labels in asked:
        matching = [sample for sample in samples if sample.name == metric]
        assert matching or metric in EMPTY_HERE, f"{metric} is not shown"
        for sample in matching:
            missing = labels - added_by_prometheus - sample.labels.keys()
            assert not missing, f"{metric} has no label {missing}"


EMPTY_HERE = {
    f"loramux:lora_{name}"
    for name in (
        "hits_total", "misses_total", "evictions_total", "loads_total", "adapter_loaded",
    )
}  # fmt: skip
"""An engine without adapters has no samples of these; test_metrics_engine sees them."""


def test_the_page_is_whole(dashboard: dict[str, Any]) -> None:
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    kinds = {panel["type"] for panel in dashboard["panels"]}
    assert kinds == {"row", "stat", "timeseries", "table"}
    for panel in dashboard["panels"]:
        assert panel["title"]
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24


def ask_for_something(server: RunningServer) -> None:
    with server.http() as client:
        for body in ({"prompt": "ab", "max_tokens": 4, "stream": True}, {"model": "nobody"}):
            client.post("/v1/completions", json={"prompt": "ab", **body})


def test_prometheus_finds_something_with_every_query(
    server: RunningServer, dashboard: dict[str, Any], tmp_path: Path
) -> None:
    values = {"$__rate_interval": "1m", "$job": "loramux", "$instance": ".*", "$model": ".*"}
    with scraping(server, tmp_path) as prometheus:
        tokens = "sum(increase(loramux:server_generation_tokens_total[1m]))"
        ask_for_something(server)
        wait_until(lambda: prometheus.value(tokens) > 0)
        for expression in expressions(dashboard):
            query = re.sub(r"^label_values\((.*), \w+\)$", r"\1", expression)
            for variable, value in values.items():
                query = query.replace(variable, value)
            found = prometheus.query(query)
            if not found and not any(name in query for name in MAY_BE_EMPTY):
                # Where a scrape has just been missed there is nothing until the next.
                wait_until(partial(prometheus.query, query))


MAY_BE_EMPTY = {*EMPTY_HERE, "prefix_cache", "lora_stage_seconds", "lora_single_flight", "resolver"}


def test_promtool_has_nothing_to_say_but_of_colons(server: RunningServer) -> None:
    """Which vLLM has, too; whoever moves over from there keeps the queries."""
    ask_for_something(server)
    with server.http() as client:
        text = client.get("/metrics").text
    checked = subprocess.run(
        [tool("promtool"), "check", "metrics"], input=text, capture_output=True, text=True,
        check=False, timeout=240,
    )  # fmt: skip
    said = (checked.stdout + checked.stderr).splitlines()
    assert said
    assert not [line for line in said if not line.endswith("should not contain ':'")]
