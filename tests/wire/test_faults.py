"""Stores that fail, as clients of a real server see it.

Whatever goes wrong: the status says whether trying again may help, other adapters are served
meanwhile, nothing is left behind, and once the store is well the right adapter answers.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.resolvers.fault_proxy import Fault
from tests.resolvers.hub_server import Behaviour, answer, cut, drip, drop, send
from tests.wire.world import REPOSITORIES, World, wait_for

STORE = r"GET .*signature"
"""Requests to the Hub's store of large files."""

DENIED = b"<Error><Code>AccessDenied</Code><Message>secret</Message></Error>"

repositories = iter(REPOSITORIES)
numbers = itertools.count()

S3_FAULTS = {
    "cut midway": (Fault(cut=300), 503),
    "reset midway": (Fault(cut=300, reset=True), 503),
    "shorter than announced": (Fault(keep=300), 503),
    "another ETag": (Fault(headers={"ETag": '"another"'}), 503),
    "403": (Fault(status=403, body=DENIED), 503),
    "404": (Fault(status=404, body=b"<Error><Code>NoSuchKey</Code></Error>"), 503),
    "429": (Fault(status=429), 503),
    "500": (Fault(status=500), 503),
    "slow drip": (Fault(pause=0.01), 503),
}

HUB_FAULTS: dict[str, tuple[str, Callable[[], Behaviour], int]] = {
    "403 of a file": (STORE, lambda: answer(403), 400),
    "404 of a file": ("/resolve/", lambda: answer(404, "EntryNotFound"), 404),
    "429": (STORE, lambda: answer(429), 503),
    "500": (STORE, lambda: answer(500), 503),
    "500 of the commit": ("/revision/", lambda: answer(500), 503),
    "slow drip": (STORE, lambda: drip(threading.Event(), 10_000), 503),
    "other bytes": (STORE, lambda: send(b"x" * 10_000), 503),
    "no Hub at all": ("", lambda: drop, 503),
    "cut midway": (STORE, lambda: cut, 503),
}


def assert_refused(wire: World, name: str, status: int) -> None:
    known = wire.on_disk("known")
    assert_served(wire, "known", known)
    ask = wire.ask if status == 503 else wire.ask_until_told
    with ThreadPoolExecutor() as threads, wire.server.http() as other:
        started = time.monotonic()
        refusal = threads.submit(ask, name)
        assert wire.ask("known", other).json()["choices"][0]["text"] == known
        assert wire.ask("known", other).json()["choices"][0]["text"] == known
        response = refusal.result()
    assert response.status_code == status, response.text
    assert time.monotonic() - started < 40  # the slow ones would take more than a minute
    assert ("retry-after" in response.headers) == (status == 503)
    message = response.json()["error"]["message"]
    assert "\n" not in message
    assert not any(word in message for word in ("secret", "signature", "Traceback"))


def assert_nothing_is_left(wire: World) -> None:
    wait_for(lambda: not wire.unfinished())  # whoever waits is told before the work ends


def assert_served(wire: World, name: str, text: str) -> None:
    response = wire.ask_until_told(name)
    assert response.status_code == 200, response.text
    assert response.json()["choices"][0]["text"] == text


@pytest.mark.parametrize(("fault", "status"), S3_FAULTS.values(), ids=S3_FAULTS)
def test_a_bucket_that_fails(wire, fault, status):
    name = f"team/a{next(numbers)}"
    text = wire.in_bucket(name)
    wire.s3.fault = lambda request: fault if request.is_part and name in request.path else None
    assert_refused(wire, name, status)
    assert_nothing_is_left(wire)
    wire.s3.reset()
    assert_served(wire, name, text)


@pytest.mark.parametrize(("pattern", "behave", "status"), HUB_FAULTS.values(), ids=HUB_FAULTS)
def test_a_hub_that_fails(wire, pattern, behave, status):
    name = next(repositories)
    text = wire.on_hub(name)
    wire.hub.when(pattern, behave())
    assert_refused(wire, name, status)
    assert_nothing_is_left(wire)
    wire.hub.behave()
    assert_served(wire, name, text)


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500])
def test_a_bucket_that_cannot_be_asked(wire, status):
    """A 404 of the object is the only no; all else may be there after all."""
    name = f"team/a{next(numbers)}"
    text = wire.in_bucket(name)
    wire.s3.fault = lambda request: Fault(status=status) if name in request.path else None
    assert_refused(wire, name, 404 if status == 404 else 503)
    wire.s3.reset()
    assert_served(wire, name, text)


def test_an_adapter_replaced_midway_is_one_or_the_other(wire):
    name = f"team/a{next(numbers)}"
    wire.in_bucket(name)
    replaced: list[str] = []

    def replace(request):
        if request.is_part and name in request.path and not replaced:
            return Fault(before=lambda: replaced.append(wire.in_bucket(name)))
        return None

    wire.s3.fault = replace
    assert_refused(wire, name, 503)
    assert_nothing_is_left(wire)
    assert_served(wire, name, replaced[0])


def test_clients_that_all_leave_end_the_download(wire):
    name = f"team/a{next(numbers)}"
    text = wire.in_bucket(name)
    wire.s3.fault = lambda request: Fault(pause=0.01) if request.is_part else None
    with wire.server.http() as client:
        client.timeout = 0.3
        with pytest.raises(Exception, match="timed out"):
            wire.ask(name, client)
    assert_nothing_is_left(wire)
    wire.s3.reset()
    assert_served(wire, name, text)


def test_others_are_answered_while_a_store_hangs(wire):
    known = wire.on_disk("known")
    assert_served(wire, "known", known)
    wire.s3.fault = lambda request: Fault(pause=0.01) if request.is_part else None

    def answers_meanwhile() -> int:
        name = f"team/a{next(numbers)}"
        wire.in_bucket(name)
        with ThreadPoolExecutor() as threads, wire.server.http() as other:
            hanging, answers = threads.submit(wire.ask, name), 0
            wait_for(lambda: any(name in seen.path for seen in wire.s3.requests if seen.is_part))
            while not hanging.done():
                assert wire.ask("known", other).json()["choices"][0]["text"] == known
                answers += not hanging.done()
            assert hanging.result().status_code == 503
        return answers

    assert any(answers_meanwhile() for _ in range(3))
