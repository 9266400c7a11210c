"""How many sequences requests may have waiting or running, each alone and all together."""

from __future__ import annotations

from typing import cast

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from loramux.errors import EngineBusyError, InvalidRequestError
from loramux.server.access.caller import access_of
from loramux.server.access.quotas import Quotas

MAX_SEQUENCES = 2048
"""Most sequences one request may ask for: its prompts times ``n``."""

_SCOPE_KEY = "loramux.places"


class SequenceQueue:
    """Counts the sequences of all requests that wait or run, and lets no more than ``limit`` in."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_flight = 0


class Places:
    """What one request takes of a queue, and of its caller's quota."""

    def __init__(self, queue: SequenceQueue, quotas: Quotas) -> None:
        self.queue = queue
        self.quotas = quotas
        self._taken = 0

    def take(self, sequences: int) -> None:
        """Take places until :meth:`release`.

        Raises:
            EngineBusyError: there are not so many free.
        """
        queue = self.queue
        if queue.in_flight + sequences > queue.limit:
            raise EngineBusyError(
                f"This server has {queue.in_flight} sequences waiting or running and takes up to "
                f"{queue.limit}, so {sequences} more do not fit; try again later."
            )
        queue.in_flight += sequences
        self._taken += sequences

    def release(self) -> None:
        """Give back what was taken."""
        self.queue.in_flight -= self._taken
        self._taken = 0


class AdmissionMiddleware:
    """Gives back a request's places once its answer has been sent, or nobody waits for it."""

    def __init__(self, app: ASGIApp, queue: SequenceQueue, quotas: Quotas) -> None:
        self._app = app
        self._queue = queue
        self._quotas = quotas

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        places = scope[_SCOPE_KEY] = Places(self._queue, self._quotas)
        try:
            await self._app(scope, receive, send)
        finally:
            places.release()


def admit(request: Request, num_prompts: int, n: int) -> None:
    """Take the places of ``n`` completions of each prompt until the request is over.

    Raises:
        InvalidRequestError: no request may ask for so many.
        EngineBusyError: others have taken them.
        ApiError: 429 if the caller's own quota is used up.
    """
    places = cast(Places, request.scope[_SCOPE_KEY])
    sequences = num_prompts * max(n, 1)  # an n below 1 is refused where its range is known
    most = min(MAX_SEQUENCES, places.queue.limit)
    if sequences > most:
        raise InvalidRequestError(
            f"{num_prompts} prompts with n = {n} are {sequences} sequences, and one request may "
            f"ask for {most}; send several requests.",
            "n",
        )
    places.take(sequences)
    places.quotas.count_sequences(access_of(request), sequences)
