"""Bringing pinned objects into files: parts of all of them at once, written by one thread."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from fsspec.asyn import get_loop

from loramux.lora.source import FetchProgress
from loramux_resolvers.store import ObjectStore, StoredObject
from loramux_resolvers.store_failure import changed, with_retries

Result = TypeVar("Result")
Call = Callable[[], Coroutine[Any, Any, Result]]

PART_BYTES = 8 * 2**20
PARALLEL_PARTS = 4
HEARTBEAT_SECONDS = 0.1


def fetch_objects(
    store: ObjectStore, objects: Mapping[Path, StoredObject], progress: FetchProgress
) -> None:
    """Bring each object to its file.

    ``progress`` is called in this thread, for each part and at least ten times a second, so that
    it can end the transfer while a server says nothing. Up to four parts of 8 MiB are in memory.

    Raises:
        StoreFailure: an object cannot be read, or is not the pinned one any more.
        OSError: a file cannot be written.
    """
    transfer = _Transfer(sum(item.size for item in objects.values()), progress)
    with ExitStack() as files:
        opened = {path: files.enter_context(path.open("wb", buffering=0)) for path in objects}
        transfer.report()  # whoever has to make room for the files knows the size by now
        for path, item in objects.items():
            _allocate(opened[path].fileno(), item.size)
        calls = (
            partial(_read_part, store, path, item, *part)
            for path, item in objects.items()
            for part in _parts(item)
        )
        with closing(in_parallel(calls, transfer.report)) as parts:
            for path, start, data in parts:
                _write(opened[path].fileno(), data, start)
                transfer.add(len(data))
    _check_unchanged(store, objects.values(), transfer.report)


def in_parallel(
    calls: Iterable[Call[Result]], heartbeat: Callable[[], None]
) -> Generator[Result, None, None]:
    """Run coroutines in fsspec's loop, four at a time, and yield results as they come.

    Closing the generator, and any error, cancels those that run.
    """
    queue = iter(calls)
    running: set[Future[Result]] = set()
    try:
        while True:
            for call in islice(queue, PARALLEL_PARTS - len(running)):
                running.add(asyncio.run_coroutine_threadsafe(call(), get_loop()))
            if not running:
                return
            done, running = wait(running, HEARTBEAT_SECONDS, FIRST_COMPLETED)
            heartbeat()
            for future in done:
                yield future.result()
    finally:
        for future in running:
            future.cancel()


class _Transfer:
    """How far it has come."""

    def __init__(self, total: int, progress: FetchProgress) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def add(self, count: int) -> None:
        self._done += count
        self.report()

    def report(self) -> None:
        self._progress(self._done, self._total)


def _parts(item: StoredObject) -> Iterator[tuple[int, int]]:
    length = PART_BYTES if item.ranged else max(item.size, 1)
    for start in range(0, item.size, length):
        yield start, min(start + length, item.size)


async def _read_part(
    store: ObjectStore, path: Path, item: StoredObject, start: int, end: int
) -> tuple[Path, int, bytes]:
    data = await with_retries(lambda: store.read(item, start, end))
    return path, start, data


def _check_unchanged(
    store: ObjectStore, objects: Iterable[StoredObject], heartbeat: Callable[[], None]
) -> None:
    """Refuse what changed meanwhile, for stores that cannot read under a condition."""
    calls = (partial(with_retries, partial(store.is_unchanged, item)) for item in objects)
    with closing(in_parallel(calls, heartbeat)) as answers:
        if not all(answers):
            raise changed()


def _allocate(descriptor: int, size: int) -> None:
    """Take the room on the disk at once, so that a full one shows before anything is fetched."""
    try:
        if size:
            os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise  # those two: this file system cannot


def _write(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
