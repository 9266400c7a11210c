"""The routes that clients call all the time."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from loramux.errors import InvalidRequestError
from loramux.pooling_params import POOLS
from loramux.server.state import ServerState, state_of


class ModelRoute(APIRoute):
    """Of endpoints that take the request and the server's state, and read the body themselves.

    There is nothing that FastAPI would have to find out about them for each request anew.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Called by FastAPI, once."""
        endpoint = self.endpoint

        async def handle(request: Request) -> Response:
            server = state_of(request)
            self.check(server)
            response: Response = await endpoint(request, server)
            return response

        return handle

    def check(self, server: ServerState) -> None:
        """Raises what stands against every request; here nothing does."""


class GeneratingRoute(ModelRoute):
    """Of endpoints that need an engine that writes."""

    def check(self, server: ServerState) -> None:
        """See that it does.

        Raises:
            InvalidRequestError: it makes embeddings.
        """
        if server.engine.pooling is not None:
            raise InvalidRequestError(POOLS, "model")
