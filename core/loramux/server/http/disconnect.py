"""Work that is worth doing only while the client is there."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

Result = TypeVar("Result")


async def while_connected(receive: Receive, work: Coroutine[None, None, Result]) -> Result:
    """Await ``work``; cancel it when the client goes.

    Args:
        receive: of the request; what comes of a body is passed over.

    Raises:
        ClientDisconnect: the client has gone, and ``work`` has ended.
        Exception: what ``receive`` or ``work`` raises.
    """
    task = asyncio.create_task(work)
    watcher = asyncio.create_task(_cancel_once_gone(receive, task))
    try:
        return await task
    except asyncio.CancelledError:
        if _is_cancelled() or not watcher.done():
            raise
        raise watcher.exception() or ClientDisconnect() from None
    finally:
        watcher.cancel()


async def _cancel_once_gone(receive: Receive, task: asyncio.Task[Result]) -> None:
    """Also once nothing can be received any more, which then is the request's end."""
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
    finally:
        task.cancel()


def _is_cancelled() -> bool:
    """Whether it is the caller who is not to go on."""
    current = asyncio.current_task()
    return current is not None and current.cancelling() > 0
