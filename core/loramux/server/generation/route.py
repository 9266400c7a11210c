"""The routes that clients call all the time."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from loramux.errors import InvalidRequestError
from loramux.pooling_params import POOLS
from loramux.server.state import state_of


class GeneratingRoute(APIRoute):
    """Of endpoints that take the request and the server's state, and need an engine that writes.

    They read and check the body themselves, so there is nothing that FastAPI would have to find
    out about them for each request anew, which costs as much as all of their own work.

    Raises:
        InvalidRequestError: (the handler) the engine makes embeddings.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Called by FastAPI, once."""
        endpoint = self.endpoint

        async def handle(request: Request) -> Response:
            server = state_of(request)
            if server.engine.pooling is not None:
                raise InvalidRequestError(POOLS, "model")
            response: Response = await endpoint(request, server)
            return response

        return handle
