"""``GET /metrics``: for Prometheus and whatever reads its format."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder

from loramux.server.access.caller import access_of
from loramux.server.access.roles import require_admin
from loramux.server.http.documented import answers
from loramux.server.metrics.collector import ServerCollector
from loramux.server.state import Server

router = APIRouter(dependencies=[Depends(require_admin)])


@router.get("/metrics", **answers(text=("text/plain", "application/openmetrics-text")))
async def metrics(request: Request, server: Server) -> Response:
    """Every figure of this moment, in the text format or, where it is asked for, OpenMetrics."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(await ServerCollector.read(server, access_of(request)))
    ProcessCollector(registry=registry)
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    # Thousands of lines take some milliseconds, in which streams go on.
    text = await asyncio.to_thread(encode, registry)
    return Response(text, headers={"content-type": media_type})
