"""The application's own description of itself, ``/openapi.json``."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.routing import Match, Route
from starlette.types import Scope

from loramux.server.access.rules import OPEN_PATHS
from loramux.server.http.documented import definitions, error_response

ANY_REQUEST = {
    "431": "The address and headers are too long.",
    "500": "The server failed; its log has the reason under the request id.",
}
ANY_BODY = {
    "400": "The request is wrong; the message says where.",
    "408": "The body did not come in time.",
    "413": "The body is too large.",
}
ANY_CALLER = {
    "401": "There is no key, or none that this server knows.",
    "403": "The key has not the role admin.",
    "429": "Too much at this time; try again after Retry-After.",
}
ANY_PAGE = {"403": "A page of another site asks, and there are no keys."}
OTHERS = {
    "404": "There is none of this name, for this caller.",
    "503": "It cannot be told or done now; try again.",
}


class Application(FastAPI):
    """FastAPI, with the answers of middleware and of keys in its documentation.

    FastAPI's pages for people are left out: they load their scripts from other hosts, and a browser
    has no key to show.

    Args:
        has_keys: whether callers need a key.
    """

    def __init__(self, *, has_keys: bool, **settings: Any) -> None:
        self._has_keys = has_keys
        self._api_routes: list[Route] = []
        self._closed_routes: list[Route] = []
        super().__init__(docs_url=None, redoc_url=None, **settings)

    def include_router(self, router: APIRouter, **settings: Any) -> None:
        """As FastAPI's; its routes are kept for ``methods_of``."""
        self._api_routes += _routes_of(router)
        super().include_router(router, **settings)

    def template_of(self, scope: Scope) -> str | None:
        """The path of the route a request is for, as it was declared; None where there is none."""
        own = [route for route in self.routes if isinstance(route, Route)]  # /openapi.json
        routes = (route for route in [*self._api_routes, *own] if _leads(route, scope))
        return next((route.path for route in routes), None)

    def leave_out(self, router: APIRouter) -> None:
        """Its routes are not there; ``is_closed`` knows them, so that an operator can be told."""
        self._closed_routes += _routes_of(router)

    def is_closed(self, scope: Scope) -> bool:
        """Whether a request is for a route that was left out."""
        return any(route.matches(scope)[0] is Match.FULL for route in self._closed_routes)

    def methods_of(self, scope: Scope) -> list[str]:
        """Of all routes to a path; a router that says 405 knows those of the first one."""
        routes = [route for route in self._api_routes if _leads(route, scope)]
        same = [route for route in routes if route.path == routes[0].path]
        return sorted({method for route in same for method in route.methods or ()})

    def openapi(self) -> dict[str, Any]:
        """The document, made once."""
        if self.openapi_schema is None:
            document = super().openapi()
            self._complete(document)
        return super().openapi()

    def _complete(self, document: dict[str, Any]) -> None:
        components = document.setdefault("components", {})
        components["schemas"] = definitions()
        if self._has_keys:
            components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, operations in document["paths"].items():
            is_open = path in OPEN_PATHS
            needs_key = self._has_keys and not is_open
            locks = ANY_CALLER if needs_key else {} if is_open else ANY_PAGE
            for operation in operations.values():
                _add_errors(operation, locks)
                if needs_key:
                    operation["security"] = [{"key": []}]


def _leads(route: Route, scope: Scope) -> bool:
    """Whether a path is a route's, by this method or by another."""
    return route.matches(scope)[0] is not Match.NONE


def _routes_of(router: APIRouter) -> list[Route]:
    return [route for route in router.routes if isinstance(route, Route)]


def _add_errors(operation: dict[str, Any], locks: dict[str, str]) -> None:
    """Of what stands before the route; without FastAPI's 422, as no route answers it."""
    responses = operation["responses"]
    responses.pop("422", None)
    errors = {**ANY_REQUEST, **locks}
    if "requestBody" in operation:
        errors.update(ANY_BODY)
    for status in errors:
        responses.setdefault(status, error_response())
    for status, description in {**ANY_BODY, **ANY_CALLER, **OTHERS, **errors}.items():
        if status in responses:
            responses[status]["description"] = description
