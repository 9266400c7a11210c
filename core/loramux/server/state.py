"""What every route can reach."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Annotated, cast

from fastapi import Depends, Request

from loramux.lora.resolve.catalog import AdapterCatalog
from loramux.lora.resolve.catalog_entry import Use
from loramux.observability.tracing import RequestTracer
from loramux.server.access.keyring import Keyring
from loramux.server.access.quotas import Quotas
from loramux.server.adapters.addresses import AddressedAdapters
from loramux.server.adapters.allowed_paths import AllowedPaths
from loramux.server.chat.tools.options import ToolOptions
from loramux.server.dashboard.activity import Activity
from loramux.server.engine_protocol import Engine
from loramux.server.generation.admission import SequenceQueue
from loramux.server.generation.prompts import TokenizerThreads
from loramux.server.http.connections import ConnectionOptions
from loramux.server.metrics.server_metrics import ServerMetrics


@dataclass(frozen=True)
class ServerState:
    """One engine and what stands around it.

    Args:
        engine: runs the requests.
        catalog: knows the adapters.
        base_names: names under which the base model is served; the first one is shown.
        keyring: keys of which a request must carry one; empty, it lets anybody in.
        allowed_paths: where adapters may lie that clients ask to load.
        addresses: finds adapters that clients ask to load by address.
        share_prefix_cache: whether callers may profit from prompts that others sent; how long
            a request takes then tells what they were.
        connections: what is asked of every connection.
        is_local: whether the server listens to its own machine alone.
        allowed_origins: of pages whose browsers may show them what is answered.
        chat_template: used instead of the model's own.
        tools: how calls of tools are read from the model's text.
        allow_runtime_updates: whether clients may load and unload adapters.
        max_body_bytes: longest request body that is read.
        max_queued_requests: sequences of all requests that may wait or run at one time.
        metrics_without_key: whether anybody may read ``/metrics``.
        access_log: whether each request gets a line in the log.
        tracer: is told of each request that is over; None where nobody wants traces.
        activity: what the dashboard shows; None where there is no dashboard.
    """

    engine: Engine
    catalog: AdapterCatalog
    base_names: list[str]
    keyring: Keyring = field(default_factory=Keyring)
    allowed_paths: AllowedPaths = field(default_factory=AllowedPaths)
    addresses: AddressedAdapters | None = None
    share_prefix_cache: bool = False
    connections: ConnectionOptions = field(default_factory=ConnectionOptions)
    is_local: bool = False
    allowed_origins: tuple[str, ...] = ()
    chat_template: str | None = None
    tools: ToolOptions = field(default_factory=ToolOptions)
    allow_runtime_updates: bool = False
    max_body_bytes: int = 8 * 1024 * 1024
    max_queued_requests: int = 4096
    metrics_without_key: bool = False
    access_log: bool = True
    tracer: RequestTracer | None = None
    activity: Activity | None = None
    started: int = field(default_factory=lambda: int(time.time()))
    tokenizer: TokenizerThreads = field(init=False)
    queue: SequenceQueue = field(init=False)
    metrics: ServerMetrics = field(init=False)
    quotas: Quotas = field(init=False, default_factory=Quotas)
    base_use: Use = field(init=False, default_factory=Use)
    """Of the base model; adapters' is counted in the catalog."""

    def __post_init__(self) -> None:
        threads = TokenizerThreads(self.engine.tokenizer, self.engine.max_model_len)
        object.__setattr__(self, "tokenizer", threads)
        object.__setattr__(self, "queue", SequenceQueue(self.max_queued_requests))
        metrics = ServerMetrics(self.base_names, self.engine.adapter_stages)
        object.__setattr__(self, "metrics", metrics)

    async def close(self) -> None:
        """End the engine and the tokenizer's threads, and send the last traces."""
        self.tokenizer.close()
        if self.addresses is not None:
            self.addresses.close()
        await self.engine.shutdown()
        if self.tracer is not None:
            await asyncio.to_thread(self.tracer.close)


def state_of(request: Request) -> ServerState:
    """The state of the server that a request came to."""
    return cast(ServerState, request.app.state.server)


async def _state_of(request: Request) -> ServerState:
    """A coroutine, since FastAPI calls plain functions on a thread, for every request."""
    return state_of(request)


Server = Annotated[ServerState, Depends(_state_of)]
"""A route's parameter of this type is given the state."""
