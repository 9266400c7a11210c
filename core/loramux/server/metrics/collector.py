"""Every metric the server shows, made from plain counters when it is scraped."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Self

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from loramux import __version__
from loramux.engine.stats import EngineStats
from loramux.lora.adapter import Tier
from loramux.server.access.caller import Caller
from loramux.server.engine_protocol import AdapterInfo
from loramux.server.metrics.adapter_families import adapter_families
from loramux.server.metrics.families import counter, counters, gauge, gauges, histograms
from loramux.server.metrics.model_series import SECONDS, ModelSeries
from loramux.server.metrics.server_families import server_families
from loramux.server.state import ServerState


class ServerCollector(Collector):
    """One reading of the server's and the engine's counters."""

    def __init__(
        self,
        server: ServerState,
        stats: EngineStats,
        infos: Sequence[AdapterInfo],
        models: Sequence[tuple[str, ModelSeries]],
        total: ModelSeries,
        caller: Caller,
    ) -> None:
        self._server = server
        self._stats = stats
        self._infos = infos
        self._models = models
        self._total = total
        self._caller = caller

    @classmethod
    async def read(cls, server: ServerState, caller: Caller) -> Self:
        """Read what a caller may see, on the event loop only what is counted there."""
        infos = await asyncio.to_thread(server.engine.adapter_infos)
        models = server.metrics.models.shown(_loaded(infos), caller.may_use)
        total = server.metrics.models.total()
        return cls(server, server.engine.stats(), infos, models, total, caller)

    def collect(self) -> Iterator[Metric]:
        """All families, each whole; on any thread."""
        yield gauges("build_info", "The version that runs.", ["version"], [((__version__,), 1)])
        yield from _engine_families(self._stats)
        yield from _model_families(self._models)
        yield from server_families(self._server, self._total, self._caller)
        yield from adapter_families(self._server, self._stats, self._infos, self._caller)


def _loaded(infos: Sequence[AdapterInfo]) -> set[str]:
    return {info.name for info in infos if info.tier != Tier.DISK}


def _engine_families(stats: EngineStats) -> Iterator[Metric]:
    yield gauge("num_requests_running", "Sequences in the batch.", stats.num_running)
    yield gauge(
        "num_requests_waiting",
        "Sequences that wait for a place in the batch, for memory or for their adapter.",
        stats.num_waiting,
    )
    yield counter(
        "engine_generation_tokens", "Tokens generated, as they are; others count whole answers.",
        stats.num_generated_tokens,
    )  # fmt: skip
    yield gauge(
        "kv_cache_usage_perc", "Share of the KV cache in use, from 0 to 1.", stats.kv_cache_usage
    )
    yield counter(
        "prefix_cache_queries", "Prompt tokens looked for in the prefix cache.",
        stats.prefix_cache_queries,
    )  # fmt: skip
    yield counter(
        "prefix_cache_hits", "Prompt tokens found in the prefix cache.", stats.prefix_cache_hits
    )
    yield counter(
        "num_preemptions", "Sequences that gave their memory to others.", stats.num_preemptions
    )


def _model_families(models: Sequence[tuple[str, ModelSeries]]) -> Iterator[Metric]:
    label = ["model_name"]
    yield counters(
        "prompt_tokens", "Prompt tokens of requests that were served.", label,
        [((name,), series.prompt_tokens) for name, series in models],
    )  # fmt: skip
    yield counters(
        "generation_tokens", "Tokens generated.", label,
        [((name,), series.generation_tokens) for name, series in models],
    )  # fmt: skip
    yield counters(
        "request_success", "Completions that ended, by how.", [*label, "finished_reason"],
        [
            ((name, reason), count)
            for name, series in models
            for reason, count in series.finished.copy().items()
        ],
    )  # fmt: skip
    for name, text in SECONDS.items():
        # Most lines of a scrape are buckets; an adapter's empty ones tell nobody anything.
        told = [
            (model, series.seconds[name])
            for position, (model, series) in enumerate(models)
            if position == 0 or series.seconds[name].count
        ]
        yield histograms(f"{name}_seconds", text, label[0], told)
