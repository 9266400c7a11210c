"""``GET /v1/adapters``: where each adapter is and how it came there."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from loramux.lora.resolve.catalog import CatalogEntry
from loramux.server.adapters.model_choice import caller_of
from loramux.server.engine_protocol import AdapterInfo
from loramux.server.state import Server

router = APIRouter()


@router.get("/v1/adapters")
async def list_adapters(request: Request, server: Server) -> JSONResponse:
    """The adapters this caller can use, with what the engine knows of each."""
    entries = server.catalog.entries(caller_of(request))
    infos = server.engine.adapter_infos()
    # Comparing paths asks the file system, which may be a slow one.
    rows = await asyncio.to_thread(_rows, entries, infos)
    return JSONResponse({"object": "list", "data": rows})


def _rows(entries: Sequence[CatalogEntry], infos: Sequence[AdapterInfo]) -> list[dict[str, Any]]:
    by_name = {info.name: info for info in infos}
    return [_row(entry, _info_of(entry, by_name)) for entry in entries]


def _info_of(entry: CatalogEntry, by_name: Mapping[str, AdapterInfo]) -> AdapterInfo | None:
    """What the engine knows under that name, unless it is another caller's adapter."""
    info = by_name.get(entry.lora_request.name)
    directory = Path(entry.lora_request.path).expanduser()
    is_another = info and directory.is_dir() and directory.resolve() != Path(info.path).resolve()
    return None if is_another else info


def _row(entry: CatalogEntry, info: AdapterInfo | None) -> dict[str, Any]:
    """The engine may have forgotten an adapter; what it does not know of it is null."""
    return {
        "name": entry.name,
        "found_by": entry.found_by,
        "search_seconds": entry.search_seconds,
        "path": entry.lora_request.path,
        "digest": info and info.digest,
        "rank": info and info.rank,
        "num_bytes": info and info.num_bytes,
        "tier": str(info.tier) if info else None,
        "load_seconds": dict(info.load_seconds) if info else None,
    }
