"""One call in a thread that nobody has to wait for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


def call_in_daemon_thread(name: str, call: Callable[[], Result]) -> Future[Result]:
    """Start ``call`` in a thread of its own and return its outcome as a future.

    For calls into libraries that cannot be cancelled. An executor's threads are joined when the
    process ends, so one that hangs would keep it from ending; a daemon thread does not.
    """
    future: Future[Result] = Future()
    future.set_running_or_notify_cancel()  # from here on it cannot be cancelled, only left

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, name=name, daemon=True).start()
    return future
