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

_OPENMETRICS = "application/openmetrics-text"
_AS_THEY_ARE = f"{_OPENMETRICS}; version=1.0.0; escaping=allow-utf-8"
"""Our names need no escaping. To whoever asks for underscores or, as Prometheus 2 does, says
nothing of it, prometheus_client would write ``loramux_x`` for ``loramux:x`` (its issue 1177), and
no query would find anything.
"""

router = APIRouter(dependencies=[Depends(require_admin)])


@router.get("/metrics", **answers(text=("text/plain", "application/openmetrics-text")))
async def metrics(request: Request, server: Server) -> Response:
    """Every figure of this moment, in the text format or, where it is asked for, OpenMetrics."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(await ServerCollector.read(server, access_of(request)))
    ProcessCollector(registry=registry)
    accept = request.headers.get("accept", "")
    encode, media_type = choose_encoder(_AS_THEY_ARE if _OPENMETRICS in accept else accept)
    # Thousands of lines take some milliseconds, in which streams go on.
    text = await asyncio.to_thread(encode, registry)
    return Response(text, headers={"content-type": media_type})
