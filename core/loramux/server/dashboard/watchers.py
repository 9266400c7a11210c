"""``GET /dashboard/events``: loads and figures as they change, as server-sent events.

Nothing is queued for anybody: each stream looks at what is true when it is its turn and sends
that, so a slow client gets fewer and newer events. One that takes nothing for a while is dropped.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from loramux.server.access.caller import Caller
from loramux.server.dashboard.activity import Activity
from loramux.server.dashboard.snapshot import loads_state, now_state
from loramux.server.http.errors import ApiError
from loramux.server.http.events import EventStreamResponse
from loramux.server.state import ServerState

MAX_WATCHERS = 32
LOOK_SECONDS = 0.2
"""How soon a load shows; however many there are, no more events than that are sent."""

PATIENCE_SECONDS = 10.0
"""How long a client may leave an event in the way of the next one."""


def watch(server: ServerState, activity: Activity, caller: Caller) -> EventStreamResponse:
    """A stream for one more watcher.

    Raises:
        ApiError: there are as many as the server serves.
    """
    if activity.num_watchers >= MAX_WATCHERS:
        raise ApiError(
            503,
            "ServiceUnavailableError",
            f"{MAX_WATCHERS} dashboards watch this server already; close one and try again.",
            headers={"retry-after": "10"},
        )
    activity.num_watchers += 1
    return _WatcherResponse(server, activity, caller)


async def events(
    server: ServerState, activity: Activity, caller: Caller
) -> AsyncGenerator[bytes, None]:
    """Loads whenever they change, and figures every second, until the server stops.

    It ends as well when the server reads its keys again: the watcher's may be gone, and whoever
    still has one comes back.
    """
    version, second, keys = -1, -1, server.keyring.version
    while not activity.is_closing and server.keyring.version == keys:
        if activity.loads.version != version:
            version = activity.loads.version
            yield named_event("loads", loads_state(activity.loads, caller))
        if int(time.monotonic()) != second:
            second = int(time.monotonic())
            yield named_event("now", now_state(server, activity))
        await asyncio.sleep(LOOK_SECONDS)


def named_event(name: str, payload: Mapping[str, Any]) -> bytes:
    """One event with a name of its own; JSON has no line breaks that could end it early."""
    return f"event: {name}\ndata: {json.dumps(payload, separators=(',', ':'))}\n\n".encode()


class _WatcherResponse(EventStreamResponse):
    """Gives the watcher's place back, and does not wait for a client for ever."""

    def __init__(self, server: ServerState, activity: Activity, caller: Caller) -> None:
        self._events = events(server, activity, caller)
        self._activity = activity
        super().__init__(self._events, self._leave, {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await send(message)
            except TimeoutError:
                raise ClientDisconnect from None

        await super().__call__(scope, receive, send_in_time)

    async def _leave(self) -> None:
        self._activity.num_watchers -= 1
        await self._events.aclose()
