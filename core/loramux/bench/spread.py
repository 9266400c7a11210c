"""What is told of many durations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Milliseconds: the median, the 99th percentile and the longest of ``count``."""

    count: int
    p50: float
    p99: float
    max: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread | None:
        """The spread of durations in seconds by nearest rank, None if there are none."""
        if not seconds:
            return None
        ordered = sorted(seconds)

        def rank(share: float) -> float:
            return 1e3 * ordered[math.ceil(share * len(ordered)) - 1]

        return cls(len(ordered), rank(0.5), rank(0.99), 1e3 * ordered[-1])
