"""``GET /v1/adapters``: where each adapter is, how it came there, and how resolvers are doing."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from loramux.lora.resolve.catalog_entry import CatalogEntry
from loramux.server.access.caller import Caller, access_of
from loramux.server.adapters.described import AdapterList
from loramux.server.adapters.disclosure import path_for, source_for
from loramux.server.engine_protocol import AdapterInfo
from loramux.server.http.documented import answers
from loramux.server.state import Server

router = APIRouter()


@router.get("/v1/adapters", **answers(AdapterList))
async def list_adapters(request: Request, server: Server) -> JSONResponse:
    """The adapters this caller can use, with what the engine knows of each."""
    # By digest, because names are each caller's own: two may use one name for two adapters.
    infos = {info.digest: info for info in server.engine.adapter_infos()}
    caller = access_of(request)
    entries = [e for e in server.catalog.entries(caller.name) if caller.may_use(e.name)]
    rows = [_row(caller, entry, infos.get(entry.digest)) for entry in entries]
    failures = server.catalog.resolver_failures() if caller.is_admin else ()
    resolvers = [asdict(resolver) for resolver in failures]
    return JSONResponse({"object": "list", "data": rows, "resolver_failures": resolvers})


def _row(caller: Caller, entry: CatalogEntry, info: AdapterInfo | None) -> dict[str, Any]:
    """The engine may have forgotten an adapter; what it does not know of it is null."""
    return {
        "name": entry.name,
        "found_by": entry.found_by,
        "search_seconds": entry.search_seconds,
        "path": path_for(caller, entry),
        "source": source_for(caller, entry, info),
        "hits": entry.use.hits,
        "last_used": entry.use.last,
        "digest": info and info.digest,
        "rank": info and info.rank,
        "num_bytes": info and info.num_bytes,
        "tier": str(info.tier) if info else None,
        "load_seconds": dict(info.load_seconds) if info else None,
        "references": info and info.references,
        "pinned": info.is_pinned if info else False,
    }
