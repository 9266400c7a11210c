"""Threads for work that nests deeply, and that nobody may have to wait for."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from loramux.errors import EngineBusyError, EngineDeadError

Result = TypeVar("Result")

STACK_BYTES = 256 * 1024 * 1024
"""Address space only, until used. A schema of 64 KiB whose definitions name one another in a chain
overflows the usual 8 MiB, which would kill the process; 64 MiB are enough for it."""


class DeepThreads:
    """A few daemon threads with large stacks, started when there is something to do.

    Args:
        count: how many.
        longest_queue: pieces of work that may wait; None for any number.
    """

    def __init__(self, name: str, count: int, longest_queue: int | None = None) -> None:
        self._name = name
        self._count = count
        self._longest_queue = longest_queue
        self._queue: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._closed = False

    def submit(self, work: Callable[[], Result]) -> Future[Result]:
        """Do ``work`` on one of the threads; fails with EngineDeadError once they are closed.

        Raises:
            EngineBusyError: too much waits already.
        """
        future: Future[Result] = Future()
        with self._changed:
            if self._closed:
                future.set_exception(_closed())
                return future
            if self._longest_queue is not None and len(self._queue) >= self._longest_queue:
                raise EngineBusyError(
                    f"{len(self._queue)} grammars wait to be compiled; try again later."
                )
            if not self._threads:
                self._start()
            self._queue.append((future, work))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Take up nothing more; what waits fails with EngineDeadError."""
        with self._changed:
            self._closed = True
            waiting = list(self._queue)
            self._queue.clear()
            self._changed.notify_all()
        for future, _ in waiting:
            future.set_exception(_closed())

    def _start(self) -> None:
        usual = threading.stack_size(STACK_BYTES)
        try:
            for number in range(self._count):
                thread = threading.Thread(
                    target=self._run, name=f"{self._name}-{number}", daemon=True
                )
                thread.start()
                self._threads.append(thread)
        finally:
            threading.stack_size(usual)

    def _run(self) -> None:
        while (job := self._next()) is not None:
            future, work = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(work())
            except BaseException as error:  # a library may panic; who waits must be told
                future.set_exception(error)
            del job, future, work

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            return self._queue.popleft() if self._queue else None


def _closed() -> EngineDeadError:
    return EngineDeadError("The engine was shut down.")
