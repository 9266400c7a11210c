"""Outputs on their way from the engine's thread to callers on event loops."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from loramux.logger import get_logger
from loramux.outputs import RequestOutput

log = get_logger(__name__)

Outcome = RequestOutput | Exception


class Mailbox:
    """Outputs of one request. Made on the caller's event loop.

    A caller has one from the moment it asks until it goes away. Outputs are posted to the object,
    not to the request id: an id may be used again as soon as its caller has gone, and the new
    request must hear nothing of the old one.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.is_aborted = False
        """The request was aborted before it reached the engine."""
        self._queue: asyncio.Queue[Outcome] = asyncio.Queue()

    def put(self, outcome: Outcome) -> None:
        """Called on the caller's event loop."""
        self._queue.put_nowait(outcome)

    async def get(self) -> RequestOutput:
        """The next output.

        Raises:
            Exception: what ended the request, if it could not be served.
        """
        outcome = await self._queue.get()
        if isinstance(outcome, Exception):
            raise outcome
        if outcome.error is not None:
            raise outcome.error
        return outcome


def deliver(posts: Iterable[tuple[Mailbox, Outcome]]) -> None:
    """Post outcomes from any thread, with one wake-up for each event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Mailbox, Outcome]]] = {}
    for mailbox, outcome in posts:
        by_loop.setdefault(mailbox.loop, []).append((mailbox, outcome))
    for loop, of_loop in by_loop.items():
        try:
            loop.call_soon_threadsafe(_put_all, of_loop)
        except RuntimeError:  # the loop is closed: its callers are gone, the others go on
            log.debug("%d outputs came after their callers' event loop was closed", len(of_loop))


def _put_all(posts: list[tuple[Mailbox, Outcome]]) -> None:
    for mailbox, outcome in posts:
        mailbox.put(outcome)
