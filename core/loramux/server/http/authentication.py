"""The API key check. Whatever is not named here as open needs a key."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from loramux.server.http.errors import ApiError

OPEN_PATHS = frozenset({"/health", "/version"})


class AuthenticationMiddleware:
    """Lets through requests with ``Authorization: Bearer KEY``, for any of ``api_keys``.

    ``scope["loramux.caller"]`` tells resolvers who asks: a fingerprint of the key, never the key.
    """

    def __init__(self, app: ASGIApp, api_keys: Sequence[str]) -> None:
        self._app = app
        self._callers = {key.encode(): fingerprint(key) for key in api_keys}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._callers or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        caller = self._caller(Headers(scope=scope).get("authorization", ""))
        if caller is None:
            await _refusal().response()(scope, receive, send)
            return
        scope["loramux.caller"] = caller
        await self._app(scope, receive, send)

    def _caller(self, authorization: str) -> str | None:
        scheme, _, given = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return None
        sent = given.strip().encode("latin-1")  # the bytes as they came
        # Every key is compared, in constant time: how long it takes tells nothing about any.
        matches = [
            caller for key, caller in self._callers.items() if hmac.compare_digest(key, sent)
        ]
        return matches[0] if matches else None


def fingerprint(api_key: str) -> str:
    """Sixteen hexadecimal digits that stand for a key wherever one might be read."""
    return hashlib.sha256(api_key.encode()).hexdigest()[:16]


def _refusal() -> ApiError:
    return ApiError(
        401,
        "AuthenticationError",
        "This server needs an API key; send it as 'Authorization: Bearer KEY'.",
        headers={"www-authenticate": "Bearer"},
    )
