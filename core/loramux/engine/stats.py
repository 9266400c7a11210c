"""What the engine has counted, as one reading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from loramux.lora.adapter import Tier
from loramux.lora.fetch.counted_reads import LoadOutcome
from loramux.observability.distribution import Distribution

if TYPE_CHECKING:
    from loramux.engine.core import EngineCore
    from loramux.lora.device.runtime import LoRARuntime
    from loramux.lora.fetch.materializer import Materializer


@dataclass(frozen=True)
class EngineStats:
    """Counters since the start, and gauges of this moment.

    Args:
        num_running: sequences in the batch.
        num_waiting: sequences that wait for a place in it, for blocks or for their adapter.
        num_generated_tokens: since the start, those of sequences that still run included.
        running_adapters: digests of the adapters that sequences run with.
        kv_cache_usage: share of the KV cache's blocks that sequences hold, from 0 to 1.
        prefix_cache_queries: prompt tokens that were looked for in the prefix cache.
        prefix_cache_hits: those that were found there.
        adapter_hits: how often an adapter was found in a tier: on the device by a new request,
            on the host by a placement, on the disk by a read.
        adapter_misses: how often it had to come from the next tier, or from its source.
        adapter_evictions: adapters that made room for others in a tier.
        adapter_loads: reads of adapters by how they ended.
        stage_seconds: what fetching, reading and placing took.
        bytes_read: bytes of tensors that were read.
        read_joins: requests that joined a read which was under way for another.
    """

    num_running: int = 0
    num_waiting: int = 0
    num_generated_tokens: int = 0
    running_adapters: frozenset[str] = frozenset()
    kv_cache_usage: float = 0.0
    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0
    num_preemptions: int = 0
    adapter_hits: Mapping[Tier, int] = field(default_factory=dict)
    adapter_misses: Mapping[Tier, int] = field(default_factory=dict)
    adapter_evictions: Mapping[Tier, int] = field(default_factory=dict)
    adapter_loads: Mapping[LoadOutcome, int] = field(default_factory=dict)
    stage_seconds: Mapping[str, Distribution] = field(default_factory=dict)
    bytes_read: int = 0
    read_joins: int = 0


def read_stats(
    core: EngineCore, materializer: Materializer | None, lora: LoRARuntime | None
) -> EngineStats:
    """Read the counters, on any thread, without holding the engine's up."""
    scheduler, blocks = core.scheduler, core.cache.pool
    adapters = {} if materializer is None or lora is None else _adapter_stats(materializer, lora)
    running = scheduler.admission.running_digests if scheduler.admission else frozenset()
    return EngineStats(
        num_running=len(scheduler.running),
        num_waiting=len(scheduler.waiting),
        num_generated_tokens=core.num_generated_tokens,
        running_adapters=running,
        kv_cache_usage=1 - blocks.num_free / blocks.num_blocks,
        prefix_cache_queries=scheduler.num_prefix_queries,
        prefix_cache_hits=scheduler.num_prefix_hits,
        num_preemptions=scheduler.num_preemptions,
        **adapters,
    )


def _adapter_stats(materializer: Materializer, lora: LoRARuntime) -> dict[str, Any]:
    pool, host, reads = lora.pool, materializer.host_cache, materializer.reads
    return {
        "adapter_hits": {
            Tier.DEVICE: pool.num_hits,
            Tier.HOST: materializer.host_hits.value,
            Tier.DISK: reads.disk_hits,
        },
        "adapter_misses": {
            Tier.DEVICE: pool.num_misses,
            Tier.HOST: reads.reads.value,
            Tier.DISK: reads.disk_misses,
        },
        "adapter_evictions": {
            Tier.DEVICE: pool.num_evictions,
            Tier.HOST: host.num_evictions,
            Tier.DISK: reads.disk_evictions,
        },
        "adapter_loads": {outcome: tally.value for outcome, tally in reads.outcomes.items()},
        "stage_seconds": {
            "fetch": reads.fetch_seconds,
            "read": reads.read_seconds,
            "place": pool.place_seconds,
        },
        "bytes_read": reads.bytes_read.value,
        "read_joins": materializer.num_joins,
    }
