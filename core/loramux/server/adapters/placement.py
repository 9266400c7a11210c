"""Bringing adapters to the device before anybody asks for them, and keeping them there.

For operators: these routes need a key of the role ``admin``, and where there are no keys they are
there only if clients may load adapters.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from loramux.errors import ModelNotFoundError
from loramux.lora.request import LoRARequest
from loramux.server.access.caller import access_of
from loramux.server.access.roles import require_admin
from loramux.server.adapters.described import PinnedAdapter, PlacedAdapter, UnpinnedAdapter
from loramux.server.adapters.model_choice import find_adapter
from loramux.server.http.disconnect import while_connected
from loramux.server.http.documented import MODEL_ERRORS, answers
from loramux.server.http.errors import ApiError
from loramux.server.state import Server, ServerState

router = APIRouter(dependencies=[Depends(require_admin)])


@router.post("/v1/adapters/{name:path}/prefetch", **answers(PlacedAdapter, errors=MODEL_ERRORS))
async def prefetch_adapter(request: Request, server: Server, name: str) -> JSONResponse:
    """Find an adapter and place it on the device; answered when it is there."""
    return await while_connected(request.receive, _prefetch(request, server, name))


@router.post("/v1/adapters/{name:path}/pin", **answers(PinnedAdapter, errors=MODEL_ERRORS))
async def pin_adapter(request: Request, server: Server, name: str) -> JSONResponse:
    """The same, and evict it no more until it is unpinned or unloaded."""
    return await while_connected(request.receive, _pin(request, server, name))


@router.delete("/v1/adapters/{name:path}/pin", **answers(UnpinnedAdapter, errors=(404,)))
async def unpin_adapter(request: Request, server: Server, name: str) -> JSONResponse:
    """Let it be evicted as any other."""
    if not access_of(request).may_use(name) or not server.engine.unpin_lora(name):
        shown = f"{name[:256]}..." if len(name) > 256 else name
        raise ApiError(404, "NotFoundError", f"The adapter '{shown}' is not pinned.", "name")
    return _answer(name, pinned=False)


async def _prefetch(request: Request, server: ServerState, name: str) -> JSONResponse:
    await server.engine.prefetch_lora(await _find(request, server, name))
    return _answer(name, tier="device")


async def _pin(request: Request, server: ServerState, name: str) -> JSONResponse:
    await server.engine.pin_lora(await _find(request, server, name))
    return _answer(name, tier="device", pinned=True)


async def _find(request: Request, server: ServerState, name: str) -> LoRARequest:
    if name in server.base_names:
        raise ModelNotFoundError(f"The model `{name}` is the base model and not an adapter.")
    entry, _ = await find_adapter(server, access_of(request), name)
    return entry.lora_request


def _answer(name: str, **facts: Any) -> JSONResponse:
    return JSONResponse({"name": name, **facts})
