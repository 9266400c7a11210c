"""Stands outside of everything else and notes how each request ends."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loramux.observability.tracing import FinishedRequest
from loramux.server.metrics.access_log import log_access
from loramux.server.metrics.record import SCOPE_KEY, RequestRecord
from loramux.server.metrics.spans import finished_request
from loramux.server.state import ServerState

NO_ROUTE = "none"
"""Stands for every path that leads nowhere, of which there are as many as clients like."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class ObservationMiddleware:
    """Counts, logs and traces each request once it is over."""

    def __init__(self, app: ASGIApp, server: ServerState) -> None:
        self._app = app
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = scope["method"]
        record = RequestRecord(method if method in METHODS else "other")
        scope[SCOPE_KEY] = record

        async def send_noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        finally:
            self._end(record, scope)

    def _end(self, record: RequestRecord, scope: Scope) -> None:
        route = _route_of(scope)
        caller = scope.get("loramux.caller")
        self._server.metrics.end(record, route, caller)
        if self._server.access_log:
            stray_path = scope["path"] if route == NO_ROUTE else None
            log_access(record, route, caller, stray_path)
        if self._server.tracer is not None:
            self._server.tracer.trace(self._finished(record, route, scope))

    def _finished(self, record: RequestRecord, route: str, scope: Scope) -> FinishedRequest:
        digest = record.generation and record.generation.digest
        stages = self._server.engine.adapter_stages(digest) if digest else {}
        request_id = scope.get("loramux.request_id", "")
        return finished_request(record, route, request_id, Headers(scope=scope), stages)


def _route_of(scope: Scope) -> str:
    """Also of what was refused, or answered, before a route was chosen: the one it was for."""
    chosen: str | None = getattr(scope.get("route"), "path", None)
    return chosen or scope["app"].template_of(scope) or NO_ROUTE
