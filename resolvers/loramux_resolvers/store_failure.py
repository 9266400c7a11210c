"""What can go wrong between here and a store, in words that hold no address and no secret."""

from __future__ import annotations

import asyncio
import errno
import random
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from loramux.errors import AdapterUnavailableError

Result = TypeVar("Result")

ATTEMPTS = 3
FIRST_PAUSE_SECONDS = 0.1

_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}
_TRANSIENT_STATUSES = {408, 425, 429}


class StoreFailure(Exception):
    """A store could not answer.

    Args:
        problem: what is the matter; follows "<address>: " in a sentence.
        advice: what to do about it.
        transient: whether the same question may be answered in a moment.
    """

    def __init__(
        self, problem: str, advice: str = "try again later", *, transient: bool = False
    ) -> None:
        super().__init__(f"{problem}; {advice}")
        self.transient = transient

    def at(self, uri: str) -> AdapterUnavailableError:
        """The same, as the error that a client gets to see."""
        return AdapterUnavailableError.at(uri, f"{self}.")


def changed() -> StoreFailure:
    """The object that was pinned is not the one that is there now."""
    return StoreFailure("the adapter changed while being read", "ask again to get the new one")


def gone() -> StoreFailure:
    """The object that was pinned is not there any more."""
    return StoreFailure("the adapter went away while being read", "ask again")


def truncated(received: int, expected: int) -> StoreFailure:
    """An answer ended early."""
    problem = f"the store sent {received} bytes where {expected} were asked for"
    return StoreFailure(problem, transient=True)


def is_missing(error: BaseException | None) -> bool:
    """Whether an error of a file system says that the object is not there, and nothing else.

    fsspec's file systems turn other errors into FileNotFoundError, too, and keep them as its cause.
    """
    status = http_status(error)
    if status is not None:
        return status in (404, 410)
    if not isinstance(error, OSError):
        return False
    absent = isinstance(error, FileNotFoundError) or error.errno in _ABSENT
    return absent and (error.__cause__ is None or is_missing(error.__cause__))


@contextmanager
def described_by(describe: Callable[[Exception], StoreFailure]) -> Iterator[None]:
    """Let nothing but StoreFailure out: other errors are described, and kept as its cause."""
    try:
        yield
    except StoreFailure:
        raise
    except Exception as error:
        raise describe(error) from error


def failure_of(error: Exception) -> StoreFailure:
    """Describe an error of any client library."""
    status = http_status(error)
    if status is not None:
        return failure_of_status(status)
    if isinstance(error, PermissionError):
        return StoreFailure("access is denied", "check the credentials and their rights")
    is_transport_fault = isinstance(error, (OSError, EOFError, *_client_errors()))
    problem = f"the store cannot be read ({type(error).__name__})"
    return StoreFailure(problem, transient=is_transport_fault)


def failure_of_status(status: int, code: str | None = None) -> StoreFailure:
    """Describe an HTTP status that is not a success, and the store's own code if it gave one."""
    label = f"HTTP {status}" if code in (None, "", str(status)) else f"HTTP {status} {code}"
    if status == 412:
        return changed()
    if status in (401, 403, 407):
        return StoreFailure(f"access is denied ({label})", "check the credentials and their rights")
    if status >= 500 or status in _TRANSIENT_STATUSES:
        return StoreFailure(f"the store is in trouble ({label})", transient=True)
    return StoreFailure(f"the store refuses the request ({label})", "check its address")


def http_status(error: BaseException | None) -> int | None:
    """The HTTP status in an error of aiohttp, google-cloud or azure, or in one of its causes."""
    for link in _causes(error):
        if isinstance(link, _client_errors()) and not hasattr(link, "status"):
            return None  # no answer; what caused that may carry a code of the parser's
        for attribute in ("status", "status_code", "code"):
            value = getattr(link, attribute, None)
            if isinstance(value, int) and 400 <= value < 600:
                return value
    return None


async def with_retries(attempt: Callable[[], Awaitable[Result]]) -> Result:
    """Try up to three times, with a pause that grows, as long as the fault is of the transport.

    Raises:
        StoreFailure: the last one, or the first that trying again cannot mend.
    """
    for number in range(ATTEMPTS):
        try:
            return await attempt()
        except StoreFailure as failure:
            if not failure.transient or number == ATTEMPTS - 1:
                raise
        await asyncio.sleep(FIRST_PAUSE_SECONDS * 4**number * random.uniform(0.5, 1.5))
    raise AssertionError("the loop ends with a result or a failure")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _client_errors() -> tuple[type[Exception], ...]:
    aiohttp = sys.modules.get("aiohttp")  # what has not been imported has raised nothing
    return (aiohttp.ClientError,) if aiohttp else ()
