"""The API key check. Whatever is not named as open needs a key."""

from __future__ import annotations

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from loramux.server.access.caller import SCOPE_KEY
from loramux.server.access.keyring import Keyring
from loramux.server.access.quotas import Quotas
from loramux.server.access.roles import no_admin
from loramux.server.access.rules import OPEN_PATHS, needs_admin
from loramux.server.http.errors import ApiError
from loramux.server.http.foreign_pages import check_site


class AuthenticationMiddleware:
    """Lets through requests with ``Authorization: Bearer KEY`` as far as that key's rights go, and
    where there are no keys whatever is not a foreign page's.

    ``scope["loramux.access"]`` tells routes who asks and what they may do, and
    ``scope["loramux.caller"]`` tells resolvers who asks: the key's name, never the key. The log
    and the metrics read it of requests that are refused, too.
    """

    def __init__(
        self,
        app: ASGIApp,
        keyring: Keyring,
        quotas: Quotas,
        open_paths: Collection[str] = OPEN_PATHS,
        is_local: bool = False,
        allowed_origins: Collection[str] = (),
    ) -> None:
        self._app = app
        self._open_paths = open_paths
        self._is_local = is_local
        self._allowed_origins = allowed_origins
        self._keyring = keyring
        self._quotas = quotas

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["type"] in ("http", "websocket"):
                self._check(scope)
        except ApiError as refusal:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await refusal.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        if scope["path"] in self._open_paths:
            return
        if self._keyring.is_open:
            check_site(scope, is_local=self._is_local, allowed_origins=self._allowed_origins)
        else:
            self._admit(scope)

    def _admit(self, scope: Scope) -> None:
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        # The bytes as they came: a key may hold any.
        key = given.strip().encode("latin-1") if scheme.lower() == "bearer" else b""
        caller = self._keyring.caller(key) if key else None
        if caller is None:
            raise _no_key(is_wrong=bool(key))
        scope[SCOPE_KEY], scope["loramux.caller"] = caller, caller.name
        self._quotas.count_request(caller)
        if needs_admin(scope.get("method", "GET"), scope["path"]) and not caller.is_admin:
            raise no_admin()
        if not scope["path"].isprintable():
            raise _no_route()  # a router may read it as another one: "/metrics\n" as "/metrics"


def _no_key(*, is_wrong: bool) -> ApiError:
    wrong = "This server does not know the API key that was sent; send another one."
    none = "This server needs an API key; send it as 'Authorization: Bearer KEY'."
    headers = {"www-authenticate": "Bearer"}
    return ApiError(401, "AuthenticationError", wrong if is_wrong else none, headers=headers)


def _no_route() -> ApiError:
    return ApiError(
        404, "NotFoundError", "There is no path with characters that cannot be printed."
    )
