"""Single flight over threads: however many ask for one thing, it is done once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Executor, Future
from contextvars import copy_context
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


class Abandoned(Exception):
    """Raised by work that notices that nobody waits for it any more."""


class _Flight(Generic[Result]):
    """One piece of work and those who wait for it."""

    def __init__(self) -> None:
        self.waiters: set[Future[Result]] = set()
        self.work: Future[Result] | None = None
        self.abandoned = False


class SharedWork(Generic[Key, Result]):
    """Runs work by key on an executor and shares its result, or its exception.

    Every caller of ``join`` gets a future of its own. Cancelling it leaves the others
    undisturbed; when the last one has left, the work is cancelled, or, if it already runs, told
    so through the callable it was given.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._lock = threading.Lock()
        self._flights: dict[Key, _Flight[Result]] = {}
        self.num_joins = 0

    def join(self, key: Key, work: Callable[[Callable[[], bool]], Result]) -> Future[Result]:
        """Start ``work(abandoned)`` unless it is under way, and wait for it through a future.

        The future raises what the work raises, or Abandoned if the executor has been shut down.
        """
        waiter: Future[Result] = Future()
        with self._lock:
            flight = self._flights.get(key)
            is_new = flight is None
            if flight is None:
                flight = self._flights[key] = _Flight()
            flight.waiters.add(waiter)
            self.num_joins += not is_new
        waiter.add_done_callback(lambda done: self._leave(key, flight, done))
        if is_new:
            self._start(key, flight, work)
        return waiter

    def __len__(self) -> int:
        with self._lock:
            return len(self._flights)

    def _start(
        self, key: Key, flight: _Flight[Result], work: Callable[[Callable[[], bool]], Result]
    ) -> None:
        try:
            # In the caller's context, so that what is logged there tells for which request it was.
            run = copy_context().run
            flight.work = self._executor.submit(run, work, lambda: flight.abandoned)
        except RuntimeError:  # it has been shut down
            self._end(key, flight, lambda waiter: waiter.set_exception(Abandoned()))
            return
        flight.work.add_done_callback(lambda done: self._land(key, flight, done))

    def _leave(self, key: Key, flight: _Flight[Result], waiter: Future[Result]) -> None:
        with self._lock:
            flight.waiters.discard(waiter)
            flight.abandoned = not flight.waiters
            if flight.abandoned:
                self._forget(key, flight)
        if flight.abandoned and (work := flight.work) is not None:
            work.cancel()

    def _land(self, key: Key, flight: _Flight[Result], done: Future[Result]) -> None:
        flight.work = None  # it refers to this callback, and would keep what it brought
        self._end(key, flight, lambda waiter: _hand_over(done, waiter))

    def _end(
        self, key: Key, flight: _Flight[Result], tell: Callable[[Future[Result]], None]
    ) -> None:
        """Forget the work, and tell all who wait for it how it ended."""
        with self._lock:
            self._forget(key, flight)
            waiters = list(flight.waiters)
        for waiter in waiters:
            if waiter.set_running_or_notify_cancel():
                tell(waiter)

    def _forget(self, key: Key, flight: _Flight[Result]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]


def _hand_over(done: Future[Result], waiter: Future[Result]) -> None:
    if done.cancelled():
        waiter.set_exception(Abandoned())
    elif (error := done.exception()) is not None:
        waiter.set_exception(error)
    else:
        waiter.set_result(done.result())
