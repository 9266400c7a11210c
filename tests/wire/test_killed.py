"""A server that ends in the midst of everything, and those that come after it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.resolvers.fault_proxy import Fault
from tests.resolvers.hub_server import drip
from tests.server.server_process import ServerProcess
from tests.wire.test_faults import STORE, assert_nothing_is_left, assert_served, numbers
from tests.wire.world import REPOSITORIES, World, wait_for

PUBLISHED = "team/published"

TORN = {
    "hub/torn.json": b'{"repository": "/x", "comm',
    "hub/empty.json": b"",
    "adapters/torn/manifest.json": b'{"digest": "torn", "si',
    "adapters/torn/files/adapter_config.json": b"{",
    "incoming/torn/manifest.json": b"",
    "incoming/torn/fetched/adapter_config.json": b"{",
}
"""What a machine that lost its power may leave in the cache besides."""


@pytest.fixture
def doomed(shared_world: World) -> Iterator[ServerProcess]:
    """A server with the same caches as the first one, and more patience; it will be killed."""
    module = ("tests.wire.held_server", str(_marks(shared_world)))
    with shared_world.another_server(
        module, LORAMUX_LORA_RESOLVE_TIMEOUT="300", LORAMUX_READ_PROCESSES="1"
    ) as server:
        yield server


def test_two_servers_download_once_and_one_that_is_killed_leaves_nothing(wire, doomed):
    shared, download, on_hub = f"team/a{next(numbers)}", f"team/a{next(numbers)}", REPOSITORIES[-1]
    texts = {name: wire.in_bucket(name) for name in (shared, download, PUBLISHED)}
    texts |= {on_hub: wire.on_hub(on_hub), "read": wire.on_disk("read")}
    with doomed.http() as other, ThreadPoolExecutor() as threads:
        for client in (wire.client, other):  # the first look-up of all takes its time
            wait_for(lambda client=client: wire.ask("nobodys", client).status_code == 404)
        answers = [threads.submit(wire.ask_until_told, shared, client) for client in (None, other)]
        assert {a.result().json()["choices"][0]["text"] for a in answers} == {texts[shared]}
        assert len([seen for seen in wire.s3.requests if seen.is_part]) == 1

        records = set(wire.cache.glob("hub/*.json"))
        wire.s3.fault = lambda seen: Fault(pause=0.01) if _is_part_of(seen, download) else None
        wire.hub.when(STORE, drip(stop := threading.Event(), 10_000))
        lost = [threads.submit(wire.ask, name, other) for name in (download, on_hub)]
        wait_for(lambda: len(wire.unfinished()) >= 2)
        for name in (PUBLISHED, "read"):
            lost.append(threads.submit(wire.ask, name, other))
        wait_for(lambda: {mark.name for mark in _marks(wire).iterdir()} == {"published", "read"})
        reader = _reading_process(doomed)
        doomed.process.send_signal(signal.SIGKILL)
        assert all(one.exception() is not None for one in lost)
    stop.set()
    wire.s3.reset()
    wire.hub.behave()
    wait_for(lambda: not _is_running(reader))
    assert wire.unfinished()
    for path, content in TORN.items():
        file = wire.cache / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    port = urlsplit(doomed.url).port or 0
    with wire.another_server(port=port, LORAMUX_LORA_RESOLVE_TIMEOUT="300") as third:
        assert wire.unfinished() == []
        assert set(wire.cache.glob("hub/*.json")) == records
        with third.http() as client:
            for name, text in texts.items():
                assert wire.ask(name, client).json()["choices"][0]["text"] == text
                wait_for(lambda name=name: wire.ask(name).status_code == 200)
                assert_served(wire, name, text)
            _assert_that_it_finishes(wire, third)
    assert_nothing_is_left(wire)


def _assert_that_it_finishes(wire: World, server: ServerProcess) -> None:
    """Told to end, a server answers whoever has asked, downloads included."""
    name = f"team/a{next(numbers)}"
    text = wire.in_bucket(name)
    wire.s3.fault = lambda seen: Fault(before=lambda: time.sleep(0.5)) if seen.is_part else None
    with server.http() as client, ThreadPoolExecutor() as threads:
        last = threads.submit(wire.ask, name, client)
        wait_for(lambda: any(_is_part_of(seen, name) for seen in wire.s3.requests))
        assert server.end(signal.SIGTERM) == 0
        assert last.result().json()["choices"][0]["text"] == text
    wire.s3.reset()


def _marks(wire: World) -> Path:
    directory = wire.root / "marks"
    directory.mkdir(exist_ok=True)
    return directory


def _is_part_of(seen, name: str) -> bool:
    return seen.is_part and name in seen.path


def _reading_process(server: ServerProcess) -> int:
    tasks = Path(f"/proc/{server.process.pid}/task").glob("*/children")
    children = [int(child) for task in tasks for child in task.read_text().split()]
    (reader,) = (c for c in children if b"held_server" in Path(f"/proc/{c}/cmdline").read_bytes())
    return reader


def _is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
