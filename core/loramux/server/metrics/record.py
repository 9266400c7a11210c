"""What is noted of one request while it is answered."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from starlette.requests import Request

from loramux.server.metrics.refusals import reason_of, reason_of_status

if TYPE_CHECKING:
    from loramux.server.metrics.generation_watch import GenerationWatch

SCOPE_KEY = "loramux.record"

CLIENT_GONE = 499
"""Stands for the status of a request whose client did not wait for one; nginx's number."""


@dataclass(eq=False)
class RequestRecord:
    """One request; times are those of :func:`time.monotonic`.

    Args:
        adapter: the name by which the client asked for one.
        lookup: when the resolvers began and ended to look for its adapter, if they had to.
        generation: what it has the engine do, once that is known.
        refusal: one word for why it was not served.
    """

    method: str
    began: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    status: int = CLIENT_GONE
    refusal: str | None = None
    adapter: str | None = None
    lookup: tuple[float, float] | None = None
    generation: GenerationWatch | None = None

    @property
    def seconds(self) -> float:
        """How long it took, once it has ended."""
        return self.ended - self.began

    @contextmanager
    def looking_up(self) -> Iterator[None]:
        """While the adapter of the request is searched for."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.lookup = began, time.monotonic()

    def refuse(self, error: Exception) -> None:
        """Note why the request fails; what is no error of ours is known by its status."""
        self.refusal = reason_of(error) or "internal"

    def end(self) -> None:
        """Note that it is over."""
        self.ended = time.monotonic()
        if self.status != CLIENT_GONE:
            self.refusal = self.refusal or reason_of_status(self.status)
        if self.generation is not None:
            self.generation.end("error" if self.refusal else "abort")


def record_of(request: Request) -> RequestRecord:
    """The record of a request that came through the server's middleware."""
    return cast(RequestRecord, request.scope[SCOPE_KEY])
