"""How much a caller may take, by a clock that the test turns."""

from __future__ import annotations

import pytest

from loramux.server.access.caller import ANYBODY, Caller, Quota
from loramux.server.access.quotas import Quotas
from loramux.server.http.errors import ApiError


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def quotas(clock: Clock) -> Quotas:
    return Quotas(clock)


def wait(quotas: Quotas, caller: Caller) -> str | None:
    """What a caller is told to wait; None if the request was let in."""
    try:
        quotas.count_request(caller)
    except ApiError as refusal:
        return refusal.headers["retry-after"] if refusal.status == 429 else "not told to"
    return None


def test_a_second_s_worth_may_come_at_once(quotas: Quotas, clock: Clock) -> None:
    caller = Caller("a", quota=Quota(requests_per_second=3))
    assert [wait(quotas, caller) for _ in range(4)] == [None, None, None, "1"]
    clock.now += 1 / 3 + 0.01
    assert [wait(quotas, caller) for _ in range(2)] == [None, "1"]
    clock.now += 3600
    assert [wait(quotas, caller) for _ in range(4)] == [None, None, None, "1"]


def test_less_than_one_a_second(quotas: Quotas, clock: Clock) -> None:
    caller = Caller("a", quota=Quota(requests_per_second=0.1))
    assert [wait(quotas, caller) for _ in range(2)] == [None, "10"]
    clock.now += 4
    assert wait(quotas, caller) == "6"
    clock.now += 6.1
    assert wait(quotas, caller) is None


def wait_for_more(quotas: Quotas, caller: Caller, sequences: int) -> str | None:
    """The same for a request that has been let in and asks for so many sequences."""
    try:
        quotas.count_sequences(caller, sequences)
    except ApiError as refusal:
        return refusal.headers["retry-after"] if refusal.status == 429 else "not told to"
    return None


def test_each_sequence_of_a_request_counts(quotas: Quotas, clock: Clock) -> None:
    caller = Caller("a", quota=Quota(requests_per_second=2))
    assert [wait(quotas, caller), wait_for_more(quotas, caller, 1)] == [None, None]
    assert [wait(quotas, caller), wait_for_more(quotas, caller, 128)] == [None, None]
    assert wait(quotas, caller) == "64"
    clock.now += 63
    assert wait(quotas, caller) == "1"
    clock.now += 1
    assert wait(quotas, caller) is None


def test_of_requests_that_come_at_once_one_may_be_large(quotas: Quotas) -> None:
    caller = Caller("a", quota=Quota(requests_per_second=3))
    assert [wait(quotas, caller) for _ in range(3)] == [None] * 3
    waits = [wait_for_more(quotas, caller, sequences) for sequences in (9, 9, 1)]
    assert waits == [None, "3", None]


def test_callers_have_their_own_and_some_have_no_limit(quotas: Quotas) -> None:
    one, other = (Caller(name, quota=Quota(requests_per_second=1)) for name in "ab")
    assert [wait(quotas, one), wait(quotas, one), wait(quotas, other)] == [None, "1", None]
    assert wait_for_more(quotas, ANYBODY, 1000) is None
    assert [wait(quotas, ANYBODY) for _ in range(100)] == [None] * 100


def test_a_new_limit_holds_at_once(quotas: Quotas) -> None:
    assert wait(quotas, Caller("a", quota=Quota(requests_per_second=1))) is None
    assert wait(quotas, Caller("a", quota=Quota(requests_per_second=5))) is None


def test_loads_at_the_same_time(quotas: Quotas) -> None:
    caller = Caller("a", quota=Quota(concurrent_loads=2))
    with quotas.loading(caller, "x"), quotas.loading(caller, "x"), quotas.loading(caller, "y"):
        with pytest.raises(ApiError, match=r"2 adapters") as refusal, quotas.loading(caller, "z"):
            pass
        assert refusal.value.headers["retry-after"] == "1"
        with quotas.loading(Caller("b", quota=Quota(concurrent_loads=1)), "z"):
            pass
    with pytest.raises(ZeroDivisionError), quotas.loading(caller, "broken"):
        raise ZeroDivisionError
    with quotas.loading(caller, "z"), quotas.loading(caller, "x"):
        pass
