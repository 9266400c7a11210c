"""``GET /metrics``: for Prometheus and whatever reads its format."""

from __future__ import annotations

import asyncio
import threading

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder

from loramux.server.metrics.collector import ServerCollector
from loramux.server.state import Server, ServerState

router = APIRouter()

_one_at_a_time = threading.Lock()
"""However often somebody scrapes, one thread at most is busy with it."""


@router.get("/metrics")
async def metrics(request: Request, server: Server) -> Response:
    """Every figure of this moment, in the text format or, where it is asked for, OpenMetrics."""
    accepted = request.headers.get("accept", "")
    text, media_type = await asyncio.to_thread(_render, server, accepted)
    return Response(text, headers={"content-type": media_type})


def _render(server: ServerState, accepted: str) -> tuple[bytes, str]:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ServerCollector(server))
    ProcessCollector(registry=registry)
    encode, media_type = choose_encoder(accepted)
    with _one_at_a_time:
        return encode(registry), media_type
