"""Two steps behind one future: results, failures and leaving, whichever step is under way."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

import pytest

from loramux.lora.fetch.chained import chain, completed

TIMEOUT = 60


def failed(error: BaseException) -> Future[str]:
    future: Future[str] = Future()
    future.set_exception(error)
    return future


def test_the_second_step_takes_what_the_first_brought():
    assert chain(completed(2), lambda value: completed(value + 1)).result(TIMEOUT) == 3


def test_the_second_step_begins_when_the_first_has_ended():
    first: Future[int] = Future()
    begun = []
    result = chain(first, lambda value: (begun.append(value), completed("done"))[1])
    assert begun == []
    assert not result.done()
    first.set_result(1)
    assert begun == [1]
    assert result.result(TIMEOUT) == "done"


def test_what_it_brought_is_gone_with_who_asked():
    steps: list[Future[threading.Event]] = [Future(), Future()]
    gc.disable()
    try:
        result = chain(steps[0], lambda value: steps[1])
        steps[0].set_result(threading.Event())
        steps[1].set_result(threading.Event())
        brought = weakref.ref(result.result(TIMEOUT))
        steps.clear()
        del result
        assert brought() is None
    finally:
        gc.enable()


def raising(value: object) -> Future[str]:
    raise RuntimeError("between")


@pytest.mark.parametrize(
    ("first", "follow", "words"),
    [
        (failed(RuntimeError("first")), completed, "first"),
        (completed(1), raising, "between"),
        (completed(1), lambda value: failed(RuntimeError("second")), "second"),
    ],
)
def test_whatever_fails_fails_the_whole(first, follow, words):
    with pytest.raises(RuntimeError, match=words):
        chain(first, follow).result(TIMEOUT)


def test_leaving_cancels_the_step_that_is_under_way():
    first: Future[int] = Future()
    second: Future[str] = Future()
    assert chain(first, lambda value: second).cancel()
    assert first.cancelled()
    assert not second.cancelled()
    first = Future()
    result = chain(first, lambda value: second)
    first.set_result(1)
    assert result.cancel()
    assert second.cancelled()
    with pytest.raises(CancelledError):
        result.result(TIMEOUT)


def test_leaving_while_the_second_step_is_being_started_cancels_it():
    first: Future[int] = Future()
    second: Future[str] = Future()

    def leave_and_start(value: int) -> Future[str]:
        result.cancel()
        return second

    result = chain(first, leave_and_start)
    first.set_result(1)
    assert second.cancelled()


def test_whoever_has_left_begins_no_second_step():
    first: Future[int] = Future()
    assert first.set_running_or_notify_cancel()  # so that it cannot be cancelled any more
    begun: list[int] = []
    result = chain(first, lambda value: completed(begun.append(value)))
    assert result.cancel()
    first.set_result(1)
    assert begun == []


def test_a_result_that_came_cannot_be_left():
    result = chain(completed(1), completed)
    assert not result.cancel()
    assert result.result(TIMEOUT) == 1


def test_threads_that_leave_at_any_moment_break_nothing():
    with ThreadPoolExecutor(8) as threads:
        for _ in range(300):
            first: Future[int] = Future()
            second: Future[int] = Future()
            result = chain(first, lambda value, second=second: second)
            begin = threading.Barrier(3)

            def act(action: object, begin: threading.Barrier = begin) -> object:
                begin.wait(TIMEOUT)
                return action()

            def finish(first: Future[int] = first, second: Future[int] = second) -> None:
                if first.set_running_or_notify_cancel():
                    first.set_result(1)

            def end(second: Future[int] = second) -> None:
                if second.set_running_or_notify_cancel():
                    second.set_result(2)

            done = [threads.submit(act, action) for action in (finish, end, result.cancel)]
            left = [future.result(TIMEOUT) for future in done][2]
            assert result.cancelled() if left else result.result(TIMEOUT) == 2
