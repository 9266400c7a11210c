"""Outputs on their way from the engine's thread to callers on event loops."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from loramux.engine.front.deltas import join_deltas
from loramux.logger import get_logger
from loramux.outputs import RequestOutput

log = get_logger(__name__)

Outcome = RequestOutput | Exception


class Mailbox:
    """Outputs of one request. Made on the caller's event loop.

    A caller has one from the moment it asks until it goes away. Outputs are posted to the object,
    not to the request id: an id may be used again as soon as its caller has gone, and the new
    request must hear nothing of the old one.

    A caller that is behind finds one output for all that has come meanwhile: it costs as much to
    send as one token, and a client that reads slowly takes up no more than its text.

    Args:
        joins_deltas: whether outputs say what is new, each.
    """

    def __init__(self, joins_deltas: bool = False) -> None:
        self.loop = asyncio.get_running_loop()
        self.is_aborted = False
        """The request was aborted before it reached the engine."""
        self.has_begun = False
        """The caller was given something, and may wait for more; kept by ``Pacing``."""
        self.joins_deltas = joins_deltas
        self._outcomes: deque[Outcome] = deque()
        self._arrival: asyncio.Future[None] | None = None
        """What the caller waits for, while it does."""

    def put(self, outcome: Outcome) -> None:
        """Called on the caller's event loop."""
        if self._outcomes and self._joins(self._outcomes[-1], outcome):
            return
        self._outcomes.append(outcome)
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    async def get(self) -> RequestOutput:
        """The next output.

        Raises:
            Exception: what ended the request, if it could not be served.
        """
        if not self._outcomes:
            self._arrival = self.loop.create_future()
            await self._arrival
            self._arrival = None
        outcome = self._outcomes.popleft()
        if isinstance(outcome, Exception):
            raise outcome
        if outcome.error is not None:
            raise outcome.error
        return outcome

    def _joins(self, last: Outcome, outcome: Outcome) -> bool:
        """Whether an outcome has become part of the one that waits; errors come alone."""
        if not self.joins_deltas or isinstance(last, Exception) or isinstance(outcome, Exception):
            return False
        if outcome.error is not None:
            return False
        join_deltas(last, outcome)
        return True


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
