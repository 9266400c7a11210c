from __future__ import annotations

import random

import numpy as np
import pytest

from loramux.server.dashboard.token_gaps import SECONDS_KEPT, TokenGaps


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize("center", [-7, -4, 0, 2])
def test_percentiles_are_those_of_numpy_within_a_bucket(clock: Clock, center: float) -> None:
    gaps, numbers = TokenGaps(clock), random.Random(3)
    seconds = [numbers.lognormvariate(center, 1) for _ in range(5000)]
    for gap in seconds:
        gaps.add(clock.now, 1, gap)
    figures = gaps.last_minute()
    assert figures.p50 == pytest.approx(np.percentile(seconds, 50), rel=0.06)
    assert figures.p99 == pytest.approx(np.percentile(seconds, 99), rel=0.06)


def test_each_second_by_itself_and_silence_in_between(clock: Clock) -> None:
    gaps = TokenGaps(clock)
    gaps.add(clock.now, 7, 0.010)
    clock.now += 2
    gaps.add(clock.now, 1, 0.5)
    clock.now += 1
    *_, first, silent, last = gaps.by_second()
    assert first.p50 == pytest.approx(0.010, rel=0.06)
    assert first.tokens == 7
    assert (silent.p50, silent.p99, silent.tokens) == (None, None, 0)
    assert last.p50 == pytest.approx(0.5, rel=0.06)
    assert gaps.last_second() == last


def test_what_is_older_than_a_minute_is_forgotten(clock: Clock) -> None:
    gaps = TokenGaps(clock)
    for _ in range(3 * SECONDS_KEPT):
        gaps.add(clock.now, 1, 1.0)
        clock.now += 1
    assert len(gaps._seconds) <= SECONDS_KEPT + 1
    clock.now += SECONDS_KEPT
    assert gaps.last_minute().p99 is None
    assert len(gaps.by_second()) == SECONDS_KEPT


def test_a_gap_of_no_time_at_all(clock: Clock) -> None:
    gaps = TokenGaps(clock)
    gaps.add(clock.now, 1, 0.0)
    assert gaps.last_minute().p50 == pytest.approx(1e-6, rel=0.06)
