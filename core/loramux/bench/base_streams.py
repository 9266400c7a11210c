"""Base requests that stream without end while something else is asked of the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise

from loramux.bench.spread import Spread
from loramux.bench.streaming_client import Answer
from loramux.bench.target import Target

RUNNING_TOKENS = 8
"""Tokens after which a stream counts as running."""


@dataclass(frozen=True)
class StreamWindow:
    """All streams together, from one time to another: their speed, and the gaps in each."""

    tokens_per_second: float
    gap_ms: Spread | None


@dataclass
class BaseStreams:
    """The answers of each stream so far; one that has come to its end is asked again."""

    answers: list[list[Answer]] = field(default_factory=list)

    def window(self, start: float, stop: float) -> StreamWindow:
        """What the streams did between two times."""
        every = [answer for answers in self.answers for answer in answers]
        tokens = sum(tokens_between(answer, start, stop) for answer in every)
        gaps = [gap for answer in every for gap in gaps_between(answer, start, stop)]
        return StreamWindow(tokens / (stop - start), Spread.of(gaps))

    def are_running(self) -> bool:
        """Whether all of them have begun."""
        return all(answers and sum(answers[0].tokens) >= RUNNING_TOKENS for answers in self.answers)


@asynccontextmanager
async def base_streams(target: Target, count: int, input_len: int) -> AsyncIterator[BaseStreams]:
    """Run ``count`` streams; they are running when the block is entered, and gone after it.

    Raises:
        BenchmarkError: the server ends one of them.
    """
    streams = BaseStreams([[] for _ in range(count)])
    tasks = [
        asyncio.create_task(_stream(target, input_len, answers)) for answers in streams.answers
    ]
    try:
        while not streams.are_running():
            _raise_failure(tasks)
            await asyncio.sleep(0.01)
        yield streams
        _raise_failure(tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def tokens_between(answer: Answer, start: float, stop: float) -> int:
    """Tokens that arrived after ``start`` and until ``stop``."""
    pieces = zip(answer.arrivals, answer.tokens, strict=True)
    return sum(tokens for arrival, tokens in pieces if start < arrival <= stop)


def gaps_between(answer: Answer, start: float, stop: float) -> list[float]:
    """Seconds from each piece to the next, for those that end after ``start`` and until ``stop``.

    One that is still open at ``stop`` counts for as long as it has lasted: a server that stands
    still must not look as if it had no gaps.
    """
    gaps = [after - before for before, after in pairwise(answer.arrivals) if start < after <= stop]
    before = [arrival for arrival in answer.arrivals if arrival <= stop]
    is_open = answer.ended is None or answer.ended > stop
    if before and is_open and before[-1] < stop:
        gaps.append(stop - before[-1])
    return gaps


async def _stream(target: Target, input_len: int, answers: list[Answer]) -> None:
    while True:
        answers.append(Answer())
        body = target.body(target.base, input_len, target.longest_answer(input_len))
        await target.client.complete(body, answers[-1])
        answers[-1].check()


def _raise_failure(tasks: Sequence[asyncio.Task[None]]) -> None:
    """A stream never returns by itself; one that is done has failed."""
    for task in tasks:
        if task.done():
            task.result()
