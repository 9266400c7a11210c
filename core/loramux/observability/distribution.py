"""How often something took how long, in plain numbers that cost next to nothing to keep."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

REQUEST_SECONDS = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0,
)  # fmt: skip
"""From a first token of a small model to the end of a long text."""

TOKEN_SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.04, 0.06, 0.08, 0.1, 0.2, 0.4, 0.8, 2.0, 5.0,
)  # fmt: skip
"""Between two tokens of a stream."""

STAGE_SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
"""For one stage of bringing an adapter, from a directory at hand to a slow store."""


class Distribution:
    """Counts values by buckets, as a Prometheus histogram shows them.

    One thread at a time may ``observe``; any thread may read at any time, and then sees every
    value that was observed before, and maybe half of one that is being observed.

    Args:
        bounds: the largest value of each bucket, rising; what is larger still is counted apart.
    """

    __slots__ = ("_counts", "bounds", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.total = 0.0
        """Sum of all values."""
        self._counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def add(self, other: Distribution) -> None:
        """Count what another one of the same bounds has counted."""
        self._counts = [mine + more for mine, more in zip(self._counts, other._counts, strict=True)]
        self.total += other.total

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self._counts)

    def buckets(self) -> list[tuple[str, float]]:
        """``(largest value, how many were at most that)`` as Prometheus has them."""
        names = [*map(str, self.bounds), "+Inf"]
        return list(zip(names, accumulate(self._counts), strict=True))
