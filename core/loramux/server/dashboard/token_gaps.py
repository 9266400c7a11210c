"""How long streams wait between two tokens, second by second, for the last minute."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil, exp, floor, log

SECONDS_KEPT = 60

_BUCKETS = 1 / log(1.05)
"""Gaps are counted in buckets 5 % wide: memory does not grow with the number of tokens."""

_SHORTEST = 1e-6
_LOWEST_BUCKET = floor(log(_SHORTEST) * _BUCKETS)


@dataclass
class _Second:
    at: int
    gaps: dict[int, int] = field(default_factory=dict)
    """Bucket to the number of gaps in it."""
    tokens: int = 0


@dataclass(frozen=True)
class GapFigures:
    """Percentiles of gaps in seconds, None where there were none; ``tokens`` came with them."""

    p50: float | None
    p99: float | None
    tokens: int


class TokenGaps:
    """Counts gaps between tokens of streams; called for each output, so it has to be cheap."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seconds: deque[_Second] = deque(maxlen=SECONDS_KEPT + 1)
        self._latest = _Second(-1)

    def add(self, now: float, tokens: int, gap: float | None) -> None:
        """Count tokens that came at ``now``, and the gap before them if others came before."""
        second = self._latest
        if second.at != int(now):
            second = self._latest = _Second(int(now))
            self._seconds.append(second)
        second.tokens += tokens
        if gap is not None:
            bucket = floor(log(gap) * _BUCKETS) if gap > _SHORTEST else _LOWEST_BUCKET
            second.gaps[bucket] = second.gaps.get(bucket, 0) + 1

    def last_minute(self) -> GapFigures:
        """Over all that came in the last minute."""
        return _figures(self._recent())

    def by_second(self) -> list[GapFigures]:
        """One for each of the last ``SECONDS_KEPT`` whole seconds, the latest last."""
        by_time = {second.at: second for second in self._seconds}
        now = int(self._clock())
        return [
            _figures([by_time[at]] if at in by_time else [])
            for at in range(now - SECONDS_KEPT, now)
        ]

    def last_second(self) -> GapFigures:
        """The latest whole second."""
        before = int(self._clock()) - 1
        return _figures([second for second in self._seconds if second.at == before])

    def _recent(self) -> list[_Second]:
        oldest = int(self._clock()) - SECONDS_KEPT
        return [second for second in self._seconds if second.at >= oldest]


def _figures(seconds: list[_Second]) -> GapFigures:
    gaps: Counter[int] = Counter()
    for second in seconds:
        gaps.update(second.gaps)
    tokens = sum(second.tokens for second in seconds)
    return GapFigures(_percentile(gaps, 0.50), _percentile(gaps, 0.99), tokens)


def _percentile(gaps: Counter[int], share: float) -> float | None:
    """The middle of the bucket that holds the gap of this rank."""
    rank = ceil(share * gaps.total())
    for bucket in sorted(gaps):
        rank -= gaps[bucket]
        if rank <= 0:
            return exp((bucket + 0.5) / _BUCKETS)
    return None
