"""A bound on the headers of a request, however they come."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from loramux.server.http.errors import ApiError


class HeaderLimitMiddleware:
    """Refuses a request line and headers of more than ``max_bytes``.

    ``slow_clients`` bounds headers that are still coming; those that come at once are bounded here.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _length(scope) > self._max_bytes:
            await self._refusal().response()(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self) -> ApiError:
        return ApiError(
            431,
            "RequestTooLargeError",
            f"The address and headers of the request are longer than {self._max_bytes} bytes; "
            "send less, or start the server with a larger --max-header-bytes.",
            headers={"connection": "close"},
        )


def _length(scope: Scope) -> int:
    headers = sum(len(name) + len(value) for name, value in scope["headers"])
    return headers + len(scope["raw_path"]) + len(scope["query_string"])
