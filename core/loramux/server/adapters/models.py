"""``GET /v1/models``: the names a caller can use without anything being searched for."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from loramux.lora.resolve.catalog_entry import CatalogEntry
from loramux.server.access.caller import Caller, access_of
from loramux.server.adapters.described import ModelCard, ModelList
from loramux.server.adapters.disclosure import path_for
from loramux.server.http.documented import answers
from loramux.server.printable import printable
from loramux.server.state import Server, ServerState

router = APIRouter()


@router.get("/v1/models/", include_in_schema=False)
@router.get("/v1/models", **answers(ModelList))
async def list_models(request: Request, server: Server) -> JSONResponse:
    """The base model under each of its names, then the adapters."""
    caller = access_of(request)
    entries = [e for e in server.catalog.entries(caller.name) if caller.may_use(e.name)]
    cards = [_base_card(server, caller, name) for name in server.base_names]
    cards += [_adapter_card(server, caller, entry) for entry in entries]
    return JSONResponse({"object": "list", "data": cards})


@router.get("/v1/models/{name:path}", **answers(ModelCard, errors=(404,)))
async def get_model(request: Request, server: Server, name: str) -> JSONResponse:
    """One of them."""
    caller = access_of(request)
    if name in server.base_names:
        return JSONResponse(_base_card(server, caller, name))
    entry = server.catalog.known(name, caller.name) if caller.may_use(name) else None
    if entry is None:
        raise server.catalog.unknown(name)
    return JSONResponse(_adapter_card(server, caller, entry))


def _base_card(server: ServerState, caller: Caller, name: str) -> dict[str, Any]:
    root = printable(server.engine.args.model) if caller.is_admin else server.base_names[0]
    return _card(server, name, root, None)


def _adapter_card(server: ServerState, caller: Caller, entry: CatalogEntry) -> dict[str, Any]:
    parent = entry.lora_request.base_model_name
    if parent in (None, server.engine.args.model):  # perhaps a path, and no name to ask for
        parent = server.base_names[0]
    return _card(server, entry.name, path_for(caller, entry) or entry.name, parent)


def _card(server: ServerState, name: str, root: str, parent: str | None) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": server.started,
        "owned_by": "loramux",
        "root": root,
        "parent": parent,
        "max_model_len": server.engine.max_model_len,
        "permission": [_permission(server, name)],
    }


def _permission(server: ServerState, name: str) -> dict[str, Any]:
    """OpenAI's legacy object, with vLLM's values."""
    return {
        "id": f"modelperm-{name}",
        "object": "model_permission",
        "created": server.started,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
