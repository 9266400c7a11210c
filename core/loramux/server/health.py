"""``GET /health`` and ``GET /version``: open to everybody, for load balancers."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from loramux import __version__
from loramux.errors import EngineDeadError
from loramux.server.http.documented import answers
from loramux.server.http.errors import ApiError
from loramux.server.state import Server

router = APIRouter()


class Version(BaseModel):
    """The server's own."""

    version: str


@router.get("/health", **answers(errors=(503,)))
async def health(server: Server) -> Response:
    """200 while the engine takes requests, 503 once it does not."""
    try:
        await server.engine.check_health()
    except EngineDeadError as error:
        raise ApiError(503, "ServiceUnavailableError", str(error)) from error
    return Response()


@router.get("/version", **answers(Version))
async def version() -> JSONResponse:
    """The version of loramux that runs."""
    return JSONResponse({"version": __version__})
