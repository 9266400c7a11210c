"""An event loop in a thread of its own, for code that must not hold up anybody else's loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

Result = TypeVar("Result")


class LoopThread:
    """Runs coroutines in one event loop, in one daemon thread, until it is closed.

    The loop stays the same between coroutines, so what they keep (sessions, locks) stays usable.
    A coroutine that blocks the thread blocks the other coroutines of this object, and only those;
    :meth:`blocked_for` tells. The thread is a daemon so that one that is blocked for good does not
    keep the process from ending.

    Args:
        name: name of the thread, as a debugger shows it.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._closed = False
        self._unanswered_since: float | None = None
        self._unfinished: set[Future[Any]] = set()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    @property
    def unfinished(self) -> int:
        """Number of coroutines that have not ended, those that were cancelled included."""
        return len(self._unfinished)

    def blocked_for(self) -> float:
        """Seconds for which the loop has owed a sign of life; 0 if it owes none."""
        since = self._unanswered_since
        return 0.0 if since is None else time.monotonic() - since

    def run(self, work: Callable[[], Coroutine[Any, Any, Result]]) -> Future[Result]:
        """Start ``work`` in the thread; cancelling the future cancels it there.

        What ``work`` raises beyond Exception, such as the SystemExit that would end the loop,
        becomes RuntimeError.

        Raises:
            RuntimeError: if this object is closed.
        """
        if self._closed:
            raise RuntimeError(f"the thread {self._thread.name!r} is closed")
        future: Future[Result] = Future()
        self._unfinished.add(future)
        self._post(partial(self._begin, work, future))
        return future

    def close(self, timeout: float = 1.0) -> bool:
        """Cancel what runs and end the thread; returns whether it ended within ``timeout`` seconds.

        May be called again.
        """
        if not self._closed:
            self._closed = True
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._stop.wait())
        for future in list(self._unfinished):  # what came too late to be begun
            future.cancel()

    def _post(self, act: Callable[[], object]) -> None:
        if self._unanswered_since is None:
            self._unanswered_since = time.monotonic()
        self._loop.call_soon_threadsafe(self._do, act)

    def _do(self, act: Callable[[], object]) -> None:
        self._unanswered_since = None
        act()

    def _begin(
        self, work: Callable[[], Coroutine[Any, Any, Result]], future: Future[Result]
    ) -> None:
        if future.cancelled():
            self._unfinished.discard(future)
            return
        task = self._loop.create_task(_contained(work))
        task.add_done_callback(partial(self._deliver, future))
        future.add_done_callback(partial(self._cancel, task))

    def _cancel(self, task: asyncio.Task[Result], future: Future[Result]) -> None:
        if future.cancelled() and not self._loop.is_closed():
            self._post(task.cancel)

    def _deliver(self, future: Future[Result], task: asyncio.Task[Result]) -> None:
        self._unfinished.discard(future)
        error = None if task.cancelled() else task.exception()
        if task.cancelled():
            future.cancel()
        elif not future.set_running_or_notify_cancel():
            return  # cancelled meanwhile: nobody waits for the outcome
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(task.result())


async def _contained(work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    try:
        return await work()
    except (Exception, asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as error:
        raise RuntimeError(f"a coroutine raised {type(error).__name__}") from error
