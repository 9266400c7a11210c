"""Metrics of adapters: where they are, how they came there, and who waits for which."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from prometheus_client.core import Metric

from loramux.engine.stats import EngineStats
from loramux.lora.adapter import Tier
from loramux.server.access.caller import Caller
from loramux.server.engine_protocol import AdapterInfo
from loramux.server.metrics.families import by_label, counter, counters, gauges, histograms
from loramux.server.metrics.model_series import MAX_SERIES
from loramux.server.state import ServerState


def adapter_families(
    server: ServerState, stats: EngineStats, infos: Sequence[AdapterInfo], caller: Caller
) -> Iterator[Metric]:
    """All of them; names only where the caller may use them."""
    yield _requests_info(server, stats, infos, caller)
    yield from _resident_families(infos, caller)
    yield from _tier_families(stats)
    yield from _arrival_families(server, stats)


def _requests_info(
    server: ServerState, stats: EngineStats, infos: Sequence[AdapterInfo], caller: Caller
) -> Metric:
    """vLLM's, as routers read it: names in labels, the time of the scrape as the value."""
    runs = {info.name for info in infos if info.digest in stats.running_adapters}
    names = sorted(filter(caller.may_use, server.metrics.adapters_in_use()))[:MAX_SERIES]
    running = [name for name in names if name in runs]
    waiting = [name for name in names if name not in running]
    labels = [str(server.engine.args.max_loras), ",".join(running), ",".join(waiting)]
    return gauges(
        "lora_requests_info", "Adapters that requests run with and wait for.",
        ["max_lora", "running_lora_adapters", "waiting_lora_adapters"],
        [(labels, time.time())],
    )  # fmt: skip


def _resident_families(infos: Sequence[AdapterInfo], caller: Caller) -> Iterator[Metric]:
    adapters = {info.digest: info for info in infos}.values()
    yield gauges(
        "lora_adapters", "Adapters by the fastest memory that holds them.", ["tier"],
        [((tier,), sum(info.tier == tier for info in adapters)) for tier in Tier],
    )  # fmt: skip
    yield gauges(
        "lora_adapter_bytes", "Bytes of adapters by the fastest memory that holds them.", ["tier"],
        [((tier,), sum(i.num_bytes for i in adapters if i.tier == tier)) for tier in Tier],
    )  # fmt: skip
    in_memory = [info for info in infos if info.tier != Tier.DISK and caller.may_use(info.name)]
    labels = dict.fromkeys((i.name, str(i.tier), str(i.rank)) for i in in_memory)  # each once
    yield gauges(
        "lora_adapter_loaded", "1 for each adapter in memory, the latest asked for.",
        ["adapter_name", "level", "rank"],
        [(one, 1) for one in list(labels)[-MAX_SERIES:]],
    )  # fmt: skip


def _tier_families(stats: EngineStats) -> Iterator[Metric]:
    yield counters(
        "lora_hits",
        "Adapters found: on the device by a request, on the host by a placement, on the disk by "
        "a read.",
        ["tier"],
        by_label(stats.adapter_hits),
    )
    yield counters(
        "lora_misses", "Adapters that had to come from the next tier, or from their source.",
        ["tier"], by_label(stats.adapter_misses),
    )  # fmt: skip
    yield counters(
        "lora_evictions", "Adapters that made room for others.", ["tier"],
        by_label(stats.adapter_evictions),
    )  # fmt: skip


def _arrival_families(server: ServerState, stats: EngineStats) -> Iterator[Metric]:
    catalog = server.catalog
    yield histograms(
        "lora_stage_seconds", "What each stage from a name to an adapter on the device took.",
        "stage", {"resolve": catalog.resolve_seconds, **stats.stage_seconds}.items(),
    )  # fmt: skip
    yield counters(
        "lora_loads", "Reads of adapters by how they ended, on the way to the host.", ["outcome"],
        by_label(stats.adapter_loads),
    )  # fmt: skip
    yield counter("lora_read_bytes", "Bytes of adapters read.", stats.bytes_read)
    yield counters(
        "lora_single_flight_joins", "Requests that joined work under way for others.", ["stage"],
        by_label({"search": catalog.num_joins, "read": stats.read_joins}),
    )  # fmt: skip
    yield counters(
        "lora_resolver_failures", "Look-ups in which a resolver could not tell.", ["resolver"],
        [((resolver.name,), resolver.total) for resolver in catalog.resolver_failures()],
    )  # fmt: skip
