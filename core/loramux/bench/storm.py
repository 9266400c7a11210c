"""Base streams while adapters are asked for beside them: never seen, resident, or of no such name.

Requests come at a fixed rate whether or not the ones before have been answered.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice

from loramux.bench.base_streams import StreamWindow, base_streams
from loramux.bench.settings import Settings
from loramux.bench.spread import Spread
from loramux.bench.steady import without_collection
from loramux.bench.streaming_client import Answer
from loramux.bench.target import Target, open_target

GRACE_SECONDS = 5.0
"""How long requests that are still open when a phase ends are waited for."""

QUIET, NEVER_SEEN, RESIDENT, UNKNOWN = "quiet", "never_seen", "resident", "unknown"


@dataclass(frozen=True)
class Phase:
    """What was asked for beside the streams, and what became of both.

    ``first_token_ms`` is the time to the first token, or to the 404 of a name that is unknown. A
    request that was not answered counts for as long as it was waited for. ``send_delay_ms`` is how
    late the client itself was at most.
    """

    kind: str
    rate: float
    streams: StreamWindow
    of_quiet: float
    sent: int
    answered: int
    first_token_ms: Spread | None
    send_delay_ms: float


@dataclass(frozen=True)
class StormReport:
    """All phases, the one without any adapter first."""

    num_streams: int
    seconds: float
    adapter_bytes: int
    phases: list[Phase]
    ready_seconds: float | None


def measure_storm(settings: Settings) -> StormReport:
    """Measure in a server of our own, or in the one that the settings name.

    Raises:
        BenchmarkError: the server ends a base stream, or fails with a resident adapter.
    """
    most = max((_count(settings, rate) for rate in settings.rates), default=0)
    with open_target(settings, most + settings.warm_adapters) as target, without_collection():
        return asyncio.run(_measure(target, settings))


async def _measure(target: Target, settings: Settings) -> StormReport:
    shelf, rates = target.shelf, settings.rates
    phases = [await _phase(target, settings, QUIET, 0, [])]
    resident = shelf.keep(settings.warm_adapters)
    for rate in rates:
        await _warm(target, settings, resident)
        names = list(islice(cycle(resident), _count(settings, rate)))
        phases.append(await _phase(target, settings, RESIDENT, rate, names))
    for rate in rates:
        names = shelf.stock(_count(settings, rate))
        phases.append(await _phase(target, settings, NEVER_SEEN, rate, names))
    names = [f"nobody-{uuid.uuid4().hex}" for _ in range(_count(settings, settings.unknown_rate))]
    phases.append(await _phase(target, settings, UNKNOWN, settings.unknown_rate, names))
    quiet = phases[0].streams.tokens_per_second
    return StormReport(
        settings.streams,
        settings.seconds,
        shelf.adapter_bytes,
        [replace(one, of_quiet=one.streams.tokens_per_second / quiet) for one in phases],
        target.ready_seconds,
    )


def _count(settings: Settings, rate: float) -> int:
    """Requests of one phase."""
    return round(rate * settings.seconds)


async def _warm(target: Target, settings: Settings, names: Sequence[str]) -> None:
    for name in names:
        body = target.body(name, settings.input_len, settings.answer_len)
        (await target.client.complete(body)).check()


async def _phase(
    target: Target, settings: Settings, kind: str, rate: float, names: Sequence[str]
) -> Phase:
    bodies = [target.body(name, settings.input_len, settings.answer_len) for name in names]
    answers = [Answer() for _ in names]
    async with base_streams(target, settings.streams, settings.input_len) as streams:
        start = time.perf_counter()
        due = [start + index / rate for index in range(len(names))]
        stop = await _send_all(target, bodies, answers, due, start + settings.seconds)
        window = streams.window(start, start + settings.seconds)
    expected = 404 if kind == UNKNOWN else 200
    delays = [answer.sent - at for answer, at in zip(answers, due, strict=True)]
    return Phase(
        kind=kind,
        rate=rate,
        streams=window,
        of_quiet=1.0,
        sent=len(answers),
        answered=sum(_is_answered(answer, expected) for answer in answers),
        first_token_ms=Spread.of([_waited(answer, expected, stop) for answer in answers]),
        send_delay_ms=1e3 * max(delays, default=0.0),
    )


async def _send_all(
    target: Target,
    bodies: Sequence[bytes],
    answers: Sequence[Answer],
    due: Sequence[float],
    end: float,
) -> float:
    """Send each request when it is due; returns when nobody waits any more, after ``end``."""
    tasks = [
        asyncio.create_task(_send(target, *request))
        for request in zip(bodies, answers, due, strict=True)
    ]
    await asyncio.sleep(end - time.perf_counter())
    if tasks:
        await asyncio.wait(tasks, timeout=GRACE_SECONDS)
    stop = time.perf_counter()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return stop


async def _send(target: Target, body: bytes, answer: Answer, due: float) -> None:
    await asyncio.sleep(due - time.perf_counter())
    await target.client.complete(body, answer)


def _is_answered(answer: Answer, expected: int) -> bool:
    if expected == 404:
        return answer.status == 404
    return answer.is_whole


def _waited(answer: Answer, expected: int, stop: float) -> float:
    """Seconds until the answer began, or until nobody waited for it any more."""
    if expected == 404 and answer.status == 404 and answer.ended is not None:
        return answer.ended - answer.sent
    if expected == 200 and answer.arrivals:
        return answer.time_to_first_token
    return stop - answer.sent
