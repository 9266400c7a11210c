"""A bound on what one request may make the server hold in memory, and for how long."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loramux.server.http.errors import ApiError


class BodyLimitMiddleware:
    """Refuses bodies of more than ``max_bytes``, announced or not.

    The whole body must have come within ``seconds``.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, seconds: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if _announced_length(scope) > self._max_bytes:
            await self._refusal().response()(scope, receive, send)
            return
        received, is_complete = 0, False
        due = asyncio.get_running_loop().time() + self._seconds

        async def receive_bounded() -> Message:
            nonlocal received, is_complete
            if is_complete:
                return await receive()
            try:
                async with asyncio.timeout_at(due):
                    message = await receive()
            except TimeoutError:
                raise self._impatience() from None
            is_complete = not message.get("more_body", False)
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise self._refusal()
            return message

        await self._app(scope, receive_bounded, send)

    def _impatience(self) -> ApiError:
        return ApiError(
            408,
            "RequestTimeoutError",
            f"The request body did not come within {self._seconds:g} seconds; send it faster, or "
            "start the server with a larger --slow-client-seconds.",
            headers={"connection": "close"},
        )

    def _refusal(self) -> ApiError:
        return ApiError(
            413,
            "RequestTooLargeError",
            f"The request body is larger than {self._max_bytes} bytes; "
            "send less, or start the server with a larger --max-body-bytes.",
            headers={"connection": "close"},
        )


def _announced_length(scope: Scope) -> int:
    text = Headers(scope=scope).get("content-length", "")
    return int(text) if text.isdecimal() else 0
