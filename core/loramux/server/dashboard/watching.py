"""Stands between the server and what it asks, and notes what happens."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any, cast

from loramux.lora.request import LoRARequest
from loramux.lora.resolve.failure_log import ResolverFailures
from loramux.lora.resolve.search import Resolution, ResolverChain
from loramux.lora.resolver import ResolveContext
from loramux.outputs import RequestOutput
from loramux.pooling_params import Params
from loramux.server.dashboard.activity import Activity
from loramux.server.engine_protocol import AdapterInfo, Engine


def watched(
    engine: Engine, resolvers: ResolverChain, activity: Activity | None
) -> tuple[Engine, ResolverChain]:
    """Both as they were where nobody wants to know, else with a watch on them."""
    if activity is None:
        return engine, resolvers
    return cast(Engine, WatchedEngine(engine, activity)), WatchedResolvers(resolvers, activity)


class WatchedEngine:
    """An engine whose requests and loads are noted; whatever else it can do goes straight to it."""

    def __init__(self, engine: Engine, activity: Activity) -> None:
        self._engine = engine
        self._activity = activity

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def generate(
        self,
        prompt: Any,
        sampling_params: Params,
        request_id: str,
        lora_request: LoRARequest | None = None,
    ) -> AsyncGenerator[RequestOutput, None]:
        """As the engine's own; closing it closes the engine's."""
        watched = self._activity.request()
        outputs = self._engine.generate(prompt, sampling_params, request_id, lora_request)
        try:
            async for output in outputs:
                watched.saw(output)
                yield output
        finally:
            await outputs.aclose()

    async def load_lora(self, lora_request: LoRARequest) -> AdapterInfo:
        """As the engine's own."""
        with self._activity.loads.loading(lora_request.name) as infos:
            info = await self._engine.load_lora(lora_request)
            infos.append(info)
        return info


class WatchedResolvers:
    """Resolvers whose searches are noted."""

    def __init__(self, resolvers: ResolverChain, activity: Activity) -> None:
        self._resolvers = resolvers
        self._activity = activity

    async def resolve(
        self, base_model_name: str, lora_name: str, *, context: ResolveContext | None = None
    ) -> Resolution:
        """As the chain's own."""
        with self._activity.loads.resolving(lora_name):
            return await self._resolvers.resolve(base_model_name, lora_name, context=context)

    def failures(self) -> Sequence[ResolverFailures]:
        """As the chain's own."""
        return self._resolvers.failures()
