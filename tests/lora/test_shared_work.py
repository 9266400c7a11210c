"""Work that is done once for all who wait for it, and for nobody once they have left."""

from __future__ import annotations

import gc
import random
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait

import pytest

from loramux.lora.fetch.shared_work import Abandoned, SharedWork

TIMEOUT = 60


class GatedWork:
    """Work that begins, waits to be let through, and ends as told."""

    def __init__(self, outcome: object = "done") -> None:
        self.runs = 0
        self.begun = threading.Event()
        self.gate = threading.Event()
        self.outcome = outcome
        self.abandoned: Callable[[], bool] = lambda: False

    def __call__(self, abandoned: Callable[[], bool]) -> object:
        self.runs += 1
        self.abandoned = abandoned
        self.begun.set()
        assert self.gate.wait(TIMEOUT)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.fixture
def shared(threads) -> SharedWork:
    return SharedWork(threads)


def test_fifty_who_ask_share_one_run(shared):
    work = GatedWork(object())
    waiters = [shared.join("key", work) for _ in range(50)]
    assert len(set(map(id, waiters))) == 50
    work.gate.set()
    assert {waiter.result(TIMEOUT) for waiter in waiters} == {work.outcome}
    assert work.runs == 1
    assert len(shared) == 0


def test_what_it_brought_is_gone_with_who_asked(threads, shared):
    """Tensors of adapters, for which Python's search for garbage comes late or not at all."""
    gate = threading.Event()
    gc.disable()
    try:
        waiter = shared.join("key", lambda abandoned: (gate.wait(TIMEOUT), GatedWork())[1])
        gate.set()
        brought = weakref.ref(waiter.result(TIMEOUT))
        del waiter
        threads.shutdown()
        assert brought() is None
    finally:
        gc.enable()


def test_an_exception_is_shared_and_not_kept(shared):
    error = RuntimeError("disk on fire")
    failing = GatedWork(error)
    waiters = [shared.join("key", failing) for _ in range(3)]
    failing.gate.set()
    assert [waiter.exception(TIMEOUT) for waiter in waiters] == [error] * 3
    assert shared.join("key", lambda abandoned: "sound").result(TIMEOUT) == "sound"


def test_different_keys_run_side_by_side(shared):
    works = [GatedWork(number) for number in range(2)]
    waiters = [shared.join(number, work) for number, work in enumerate(works)]
    assert all(work.begun.wait(TIMEOUT) for work in works), "one waits for the other"
    for work in works:
        work.gate.set()
    assert [waiter.result(TIMEOUT) for waiter in waiters] == [0, 1]


def test_one_who_leaves_disturbs_nobody(shared):
    work = GatedWork()
    stays, leaves = shared.join("key", work), shared.join("key", work)
    assert leaves.cancel()
    assert not work.abandoned()
    work.gate.set()
    assert stays.result(TIMEOUT) == "done"
    with pytest.raises(CancelledError):
        leaves.result()


def test_running_work_is_told_when_the_last_one_has_left(shared):
    work = GatedWork()
    waiters = [shared.join("key", work) for _ in range(2)]
    assert work.begun.wait(TIMEOUT)
    waiters[0].cancel()
    assert not work.abandoned()
    waiters[1].cancel()
    assert work.abandoned()
    assert len(shared) == 0
    work.gate.set()


def test_work_that_has_not_begun_is_never_begun_for_nobody(threads, shared):
    gate = threading.Event()
    busy = [threads.submit(gate.wait, TIMEOUT) for _ in range(2)]
    work = GatedWork()
    shared.join("key", work).cancel()
    gate.set()
    wait(busy)
    threads.shutdown(wait=True)
    assert work.runs == 0


def test_who_asks_after_the_last_has_left_gets_a_run_of_their_own(shared):
    abandoned, fresh = GatedWork("old"), GatedWork("new")
    shared.join("key", abandoned).cancel()
    waiter = shared.join("key", fresh)
    abandoned.gate.set()
    fresh.gate.set()
    assert waiter.result(TIMEOUT) == "new"


def test_work_cut_off_by_a_shutdown_ends_for_those_who_wait(threads, shared):
    running = [GatedWork(), GatedWork()]
    for number, work in enumerate(running):
        shared.join(number, work)
        assert work.begun.wait(TIMEOUT)
    queued = shared.join("queued", GatedWork())
    threads.shutdown(wait=False, cancel_futures=True)
    assert isinstance(queued.exception(TIMEOUT), Abandoned)
    for work in running:
        work.gate.set()


def test_nobody_waits_for_work_that_could_not_be_started(threads, shared):
    threads.shutdown()
    for _ in range(2):
        assert isinstance(shared.join("key", GatedWork()).exception(TIMEOUT), Abandoned)
    assert len(shared) == 0


def test_whoever_stays_is_answered_whatever_the_others_do():
    """Threads join and cancel at random; a result that was not cancelled must come."""
    with ThreadPoolExecutor(4) as executor, ThreadPoolExecutor(8) as callers:
        shared: SharedWork[int, int] = SharedWork(executor)

        def call(seed: int) -> list[Future[int]]:
            chance = random.Random(seed)
            kept = []
            for _ in range(100):
                key = chance.randrange(3)
                waiter = shared.join(key, lambda abandoned, key=key: key)
                if chance.random() < 0.5:
                    waiter.cancel()
                else:
                    kept.append(waiter)
            return kept

        kept = [waiter for waiters in callers.map(call, range(8)) for waiter in waiters]
        assert {waiter.result(TIMEOUT) for waiter in kept} == {0, 1, 2}
        assert len(shared) == 0
