"""``GET /v1/adapters``: where each adapter is and how it came there."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from loramux.lora.catalog import CatalogEntry
from loramux.server.engine_protocol import AdapterInfo
from loramux.server.model_choice import caller_of
from loramux.server.state import Server

router = APIRouter()


@router.get("/v1/adapters")
async def list_adapters(request: Request, server: Server) -> JSONResponse:
    """The adapters this caller can use, with what the engine knows of each."""
    infos = {(info.name, info.path): info for info in server.engine.adapter_infos()}
    entries = server.catalog.entries(caller_of(request))
    adapters = [_row(entry, infos.get(_key(entry))) for entry in entries]
    return JSONResponse({"object": "list", "data": adapters})


def _key(entry: CatalogEntry) -> tuple[str, str]:
    return entry.lora_request.name, entry.lora_request.path


def _row(entry: CatalogEntry, info: AdapterInfo | None) -> dict[str, Any]:
    """The engine forgets an adapter that has left its memory; the catalog does not."""
    return {
        "name": entry.name,
        "found_by": entry.found_by,
        "search_seconds": entry.search_seconds,
        "path": entry.lora_request.path,
        "digest": info and info.digest,
        "rank": info and info.rank,
        "num_bytes": info and info.num_bytes,
        "tier": str(info.tier) if info else "disk",
        "load_seconds": dict(info.load_seconds) if info else None,
    }
