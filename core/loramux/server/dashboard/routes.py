"""The data behind the page. It stands behind the API key like everything that is not a file."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from loramux.server.access.caller import access_of
from loramux.server.access.roles import require_admin
from loramux.server.dashboard.activity import Activity
from loramux.server.dashboard.snapshot import whole_state
from loramux.server.dashboard.watchers import watch
from loramux.server.state import Server, ServerState

router = APIRouter(
    prefix="/dashboard", include_in_schema=False, dependencies=[Depends(require_admin)]
)


@router.get("/state")
async def state(request: Request, server: Server) -> JSONResponse:
    """Everything at this moment."""
    shown = whole_state(server, _activity_of(server), access_of(request))
    return JSONResponse(shown, headers={"cache-control": "no-store"})


@router.get("/events")
async def events(request: Request, server: Server) -> Response:
    """What changes from now on."""
    return watch(server, _activity_of(server), access_of(request))


def _activity_of(server: ServerState) -> Activity:
    assert server.activity is not None, "these routes exist only with a dashboard"
    return server.activity
