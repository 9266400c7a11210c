"""Coroutines in a thread of their own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from functools import partial

import pytest

from loramux.lora.resolve.loop_thread import LoopThread

PATIENCE = 60
"""Seconds for what takes none on a machine that is not busy."""


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    thread = LoopThread("under test")
    yield thread
    assert thread.close(PATIENCE)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.001)


async def where() -> tuple[str, asyncio.AbstractEventLoop]:
    return threading.current_thread().name, asyncio.get_running_loop()


def test_every_coroutine_meets_the_same_loop(thread):
    first, second = thread.run(where).result(PATIENCE), thread.run(where).result(PATIENCE)
    assert first[0] == "under test"
    assert first == second


def test_exceptions_come_through(thread):
    async def fail() -> None:
        raise LookupError("nothing")

    with pytest.raises(LookupError, match="nothing"):
        thread.run(fail).result(PATIENCE)
    assert thread.unfinished == 0


@pytest.mark.parametrize(
    "foreign", [SystemExit, KeyboardInterrupt, type("P", (BaseException,), {})]
)
def test_nothing_a_coroutine_raises_ends_the_loop(thread, foreign):
    async def fail() -> None:
        raise foreign

    with pytest.raises(RuntimeError, match=f"a coroutine raised {foreign.__name__}"):
        thread.run(fail).result(PATIENCE)
    assert thread.run(where).result(PATIENCE)


def test_a_coroutine_that_cancels_itself_is_cancelled(thread):
    async def give_up() -> None:
        raise asyncio.CancelledError

    with pytest.raises(CancelledError):
        thread.run(give_up).result(PATIENCE)


def test_cancelling_the_future_cancels_the_coroutine(thread):
    started, cancelled = threading.Event(), threading.Event()

    async def wait() -> None:
        started.set()
        try:
            await asyncio.sleep(600)
        finally:
            cancelled.set()

    future = thread.run(wait)
    assert started.wait(PATIENCE)
    assert thread.unfinished == 1
    future.cancel()
    assert cancelled.wait(PATIENCE)
    wait_until(lambda: thread.unfinished == 0)


def blocked(thread: LoopThread) -> tuple[threading.Event, Future[None]]:
    release, blocking = threading.Event(), threading.Event()

    async def block() -> None:
        blocking.set()
        release.wait(PATIENCE)

    future = thread.run(block)
    assert blocking.wait(PATIENCE)
    return release, future


def test_a_blocked_loop_is_noticed_and_recovers(thread):
    assert thread.blocked_for() == 0
    release, future = blocked(thread)
    waiting = thread.run(where)
    time.sleep(0.02)
    assert thread.blocked_for() >= 0.02
    assert thread.unfinished == 2
    release.set()
    future.result(PATIENCE)
    waiting.result(PATIENCE)
    assert thread.blocked_for() == 0
    wait_until(lambda: thread.unfinished == 0)


def test_what_is_cancelled_before_it_began_never_runs(thread):
    release, _ = blocked(thread)
    ran: list[int] = []
    future = thread.run(partial(_note, ran))
    future.cancel()
    release.set()
    wait_until(lambda: thread.unfinished == 0)
    assert ran == []


async def _note(ran: list[int]) -> None:
    ran.append(1)


def test_closing_cancels_what_runs_and_refuses_what_comes(thread):
    future = thread.run(partial(asyncio.sleep, 600))
    assert thread.close(PATIENCE)
    assert thread.close()
    with pytest.raises(CancelledError):
        future.result(PATIENCE)
    with pytest.raises(RuntimeError, match="'under test' is closed"):
        thread.run(where)


def test_closing_cancels_what_came_too_late_to_begin(monkeypatch):
    thread = LoopThread("late")
    monkeypatch.setattr(thread, "_begin", lambda work, future: None)
    future = thread.run(where)
    assert thread.close(PATIENCE)
    assert future.cancelled()


def test_closing_does_not_wait_for_what_blocks():
    thread = LoopThread("stuck")
    release, _ = blocked(thread)
    late = thread.run(where)
    assert not thread.close(timeout=0.01)
    release.set()
    assert thread.close(PATIENCE)
    assert late.done()
