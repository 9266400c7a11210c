"""An id for every request, and an answer for every exception."""

from __future__ import annotations

import logging
import re
import uuid

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loramux.observability.log_lines import REQUEST_ID
from loramux.server.http.errors import unexpected_error

log = logging.getLogger(__name__)

HEADER = "x-request-id"
_SANE = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


def request_id_of(request: Request) -> str:
    """What ``RequestIdMiddleware`` has given it."""
    request_id: str = request.scope["loramux.request_id"]
    return request_id


class RequestIdMiddleware:
    """Gives each request its client's id, or a new one, and each answer the same.

    It stands outside everything else, so that what nobody caught ends here: logged under the
    request's id, and answered without a word about the inside.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = scope["loramux.request_id"] = _choose_id(Headers(scope=scope).get(HEADER))
        REQUEST_ID.set(request_id)  # of this task and of all that it starts
        has_started = False

        async def send_with_id(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            log.debug("the client of request %s has gone", request_id)
        except Exception:
            log.exception("request %s failed", request_id)
            if not has_started:
                await unexpected_error(request_id).response()(scope, receive, send_with_id)


def _choose_id(given: str | None) -> str:
    return given if given and _SANE.fullmatch(given) else uuid.uuid4().hex
