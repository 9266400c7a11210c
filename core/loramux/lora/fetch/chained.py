"""One future for two steps, the second of which depends on what the first brings."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any, TypeVar

First = TypeVar("First")
Second = TypeVar("Second")


def completed(value: Second) -> Future[Second]:
    """A future that has its result already."""
    future: Future[Second] = Future()
    future.set_result(value)
    return future


def chain(first: Future[First], follow: Callable[[First], Future[Second]]) -> Future[Second]:
    """A future of ``follow(first's result)``; cancelling it cancels the step under way.

    ``follow`` is called in the caller's context, on whatever thread the first step ended.
    """
    result: Future[Second] = Future()
    context = copy_context()
    under_way: list[Future[Any]] = [first]

    def cancel_step(done: Future[Second]) -> None:
        step = under_way.pop()  # it refers to the result, and the result to this function
        if done.cancelled():
            step.cancel()

    def go_on(done: Future[First]) -> None:
        if result.cancelled():
            return  # or the second step would begin for nobody
        try:
            second = context.run(follow, done.result())
        except BaseException as error:
            _fail(result, error)
            return
        under_way[:] = [second]
        if result.cancelled():
            second.cancel()
        second.add_done_callback(lambda done: _hand_over(done, result))

    result.add_done_callback(cancel_step)
    first.add_done_callback(go_on)
    return result


def _hand_over(done: Future[Second], result: Future[Second]) -> None:
    try:
        value = done.result()
    except BaseException as error:
        _fail(result, error)
        return
    if result.set_running_or_notify_cancel():
        result.set_result(value)


def _fail(result: Future[Any], error: BaseException) -> None:
    if result.set_running_or_notify_cancel():
        result.set_exception(error)
