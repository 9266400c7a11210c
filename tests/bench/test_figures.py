"""From times to figures."""

from __future__ import annotations

from typing import Any

import pytest

from loramux.bench.base_streams import BaseStreams
from loramux.bench.memory import draw_power_law
from loramux.bench.report import table
from loramux.bench.spread import Spread
from loramux.bench.streaming_client import Answer
from loramux.bench.throughput import _Seconds
from loramux.bench.workload import Workload


def test_a_spread_is_by_nearest_rank() -> None:
    assert Spread.of([n / 1e3 for n in range(200, 0, -1)]) == Spread(200, 100.0, 198.0, 200.0)
    assert Spread.of([0.5]) == Spread(1, 500.0, 500.0, 500.0)
    assert Spread.of([]) is None


def window(*answers: Answer) -> tuple[float, list[float]]:
    """Tokens a second and the ordered gaps in milliseconds from 10 to 20 s."""
    streams = BaseStreams([list(answers)])
    found = streams.window(10.0, 20.0)
    assert found.gap_ms is not None
    return found.tokens_per_second, [found.gap_ms.count, found.gap_ms.p50, found.gap_ms.max]


def test_a_window_counts_what_ends_in_it() -> None:
    answer = Answer(arrivals=[8.0, 9.5, 10.5, 12.0, 19.0, 21.0], tokens=[1, 1, 1, 3, 1, 1])
    assert window(answer) == (0.5, [4, pytest.approx(1000.0), pytest.approx(7000.0)])


def test_a_stream_that_stands_still_has_one_long_gap() -> None:
    answer = Answer(arrivals=[8.0, 9.0], tokens=[1, 1])
    assert window(answer) == (0.0, [1, pytest.approx(11000.0), pytest.approx(11000.0)])


def test_the_time_between_two_answers_is_no_gap() -> None:
    ended = Answer(arrivals=[9.0, 11.0], tokens=[1, 1], ended=11.0)
    next_one = Answer(arrivals=[19.0, 20.0], tokens=[1, 1])
    assert window(ended, next_one) == (0.3, [2, pytest.approx(1000.0), pytest.approx(2000.0)])


def test_a_power_law_prefers_the_first() -> None:
    draws = draw_power_law(100, 20_000)
    assert len(draws) == 20_000
    assert set(draws) <= set(range(100))
    assert draws.count(0) / draws.count(9) == pytest.approx(10, rel=0.25)
    assert draws == draw_power_law(100, 20_000)


def test_decode_is_unknown_where_one_token_took_longer_than_all() -> None:
    workload = Workload([[1], [2]], output_len=5)
    usual, disturbed = _Seconds(1.0, 3.0), _Seconds(3.3, 2.4)
    assert usual.case("", workload, usual).decode_tokens_per_second == 4
    assert disturbed.case("", workload, usual).decode_tokens_per_second is None


def phase_of(of_quiet: float) -> dict[str, Any]:
    streams = {"tokens_per_second": 100 * of_quiet, "gap_ms": None}
    return {"kind": "quiet", "rate": 0, "streams": streams, "of_quiet": of_quiet}


def memory_of(of_all_resident: float) -> dict[str, Any]:
    adapter = {"rank": 8, "max_lora_rank": 256, "of_own_bytes": 1.6}
    start = {"load_format": "dummy", "without_lora_seconds": 1.0, "with_lora_seconds": 2.0}
    law = dict.fromkeys(("num_requests", "num_drawn", "num_adapters", "resident"), 8)
    law |= dict.fromkeys(("tokens_per_second", "all_resident_tokens_per_second"), 1)
    law["of_all_resident"] = of_all_resident
    return {"adapter": adapter, "server_start": start, "power_law": law}


@pytest.mark.parametrize(
    "report",
    [
        lambda ratio: {"storm": {"phases": [phase_of(1.0), phase_of(ratio)]}},
        lambda ratio: {"memory": memory_of(ratio)},
    ],
)
def test_a_table_says_that_a_ratio_far_above_1_is_none_to_trust(report: Any) -> None:
    untrusted = table(report(2.345)).splitlines()[-1]
    assert untrusted.startswith("2.35 is above 1.1: the machine's own speed moved")
    assert "own speed" not in table(report(1.1)) + table(report(0.2))
