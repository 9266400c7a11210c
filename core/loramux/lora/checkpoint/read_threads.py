"""The threads that all readings of adapters share, besides the one that each reading has."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache

from loramux import env

DEFAULT_MAX_THREADS = 16
"""While SHA-256 was computed, 84 MB took 13 ms with 8 threads on one machine, and 9 with 16."""


def read_threads() -> int:
    """Threads that read one adapter: ``LORAMUX_READ_THREADS``, or one a core and at most 16.

    Raises:
        EnvironmentVariableError: the variable holds no positive number.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return env.read_int("LORAMUX_READ_THREADS", min(DEFAULT_MAX_THREADS, cores or 1), minimum=1)


@contextmanager
def shared_out(count: int, work: Callable[[int], None]) -> Iterator[Callable[[], None]]:
    """Have ``work`` called with each of ``0`` to ``count - 1`` on idle shared threads from now on.

    Yields a function that takes part on the calling thread and returns when all is done. The
    calling thread does what no other takes, so a busy pool slows it down and never stops it. When
    the block is left early, what has not begun is left out, and nothing goes on afterwards.

    The function raises:
        Exception: the first that ``work`` raised on the calling thread, or else on another; what
            has not begun by then is left out.
    """
    left = deque(range(count))

    def drain() -> None:
        try:
            while (position := _taken(left)) is not None:
                work(position)
        except BaseException:
            left.clear()
            raise

    threads = read_threads()
    helpers = [_pool(threads).submit(drain) for _ in range(min(threads, count) - 1)]

    def finish() -> None:
        drain()
        for helper in _started(helpers):
            helper.result()

    try:
        yield finish
    finally:
        left.clear()
        wait(_started(helpers))


def _started(helpers: Iterable[Future[None]]) -> list[Future[None]]:
    """Those that can no longer be kept from beginning."""
    return [helper for helper in helpers if not helper.cancel()]


def _taken(left: deque[int]) -> int | None:
    try:
        return left.popleft()
    except IndexError:  # another thread may take the last one at any moment
        return None


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="loramux-read")
