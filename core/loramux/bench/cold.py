"""Time to the first token of a name nobody has heard, beside one that is warm and the base model.

The server is idle but for the one request that is timed. The gap between tokens of streams that
run together is measured in the same server.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass

from loramux.bench.base_streams import StreamWindow, base_streams
from loramux.bench.settings import Settings
from loramux.bench.spread import Spread
from loramux.bench.steady import without_collection
from loramux.bench.target import Target, open_target

WARM_UP = 3
"""Requests of each kind before any is timed."""

MOST_SECONDS = 5.0
"""Of watching the streams; thousands of gaps by then."""


@dataclass(frozen=True)
class ColdReport:
    """Times to the first token in milliseconds, one request at a time, and ``streams`` together."""

    base_ms: Spread | None
    warm_adapter_ms: Spread | None
    never_seen_ms: Spread | None
    adapter_bytes: int
    num_streams: int
    streams: StreamWindow
    ready_seconds: float | None


def measure_cold(settings: Settings) -> ColdReport:
    """Measure in a server of our own, or in the one that the settings name.

    Raises:
        BenchmarkError: a request fails.
    """
    with open_target(settings, settings.samples + 2 * WARM_UP) as target, without_collection():
        return asyncio.run(_measure(target, settings))


async def _measure(target: Target, settings: Settings) -> ColdReport:
    count = settings.samples + WARM_UP
    warm = target.shelf.keep(1) * count
    never_seen = target.shelf.stock(count)
    return ColdReport(
        base_ms=await _first_tokens(target, settings, [target.base] * count),
        warm_adapter_ms=await _first_tokens(target, settings, warm),
        never_seen_ms=await _first_tokens(target, settings, never_seen),
        adapter_bytes=target.shelf.adapter_bytes,
        num_streams=settings.streams,
        streams=await _streams(target, settings),
        ready_seconds=target.ready_seconds,
    )


async def _first_tokens(target: Target, settings: Settings, models: Iterable[str]) -> Spread | None:
    seconds = []
    for model in models:
        body = target.body(model, settings.input_len, settings.answer_len)
        answer = await target.client.complete(body)
        answer.check()
        seconds.append(answer.time_to_first_token)
    return Spread.of(seconds[WARM_UP:])


async def _streams(target: Target, settings: Settings) -> StreamWindow:
    seconds = min(settings.seconds, MOST_SECONDS)
    async with base_streams(target, settings.streams, settings.input_len) as streams:
        start = time.perf_counter()
        await asyncio.sleep(seconds)
        return streams.window(start, start + seconds)
