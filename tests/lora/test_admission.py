"""Which adapters may run together: at most ``max_loras``, and none waits for ever."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loramux.lora.adapter import Adapter
from loramux.lora.device import admission
from loramux.lora.device.admission import AdapterAdmission
from loramux.lora.device.resident import ResidentAdapter
from tests.lora.residents import make_adapter

A, B, C, D = (make_adapter(digest) for digest in "abcd")
LONG_AGO = -1e9


class FakePool:
    """A device pool whose adapters arrive when the test says so."""

    def __init__(self, capacity: int = 8, *resident: Adapter) -> None:
        self.capacity = capacity
        self.resident = {a.digest: ResidentAdapter(a, {}) for a in resident}
        self.prefetched: list[str] = []
        self.kept: list[set[str]] = []

    def collect(self) -> None:
        """Everything is here already."""

    def prefetch(self, adapter: Adapter, keep: set[str]) -> bool:
        self.kept.append(set(keep))
        if adapter.digest in self.resident or adapter.digest in self.prefetched:
            return True
        if len(self.resident) + len(self.prefetched) >= self.capacity:
            return False
        self.prefetched.append(adapter.digest)
        return True

    def get(self, adapter: Adapter) -> ResidentAdapter | None:
        return self.resident.get(adapter.digest)

    def hold(self, adapter: Adapter) -> None:
        self.resident[adapter.digest].references += 1

    def let_go(self, adapter: Adapter) -> None:
        self.resident[adapter.digest].references -= 1


def make_admission(max_loras: int, *resident: Adapter, drain: float = 1.0) -> AdapterAdmission:
    return AdapterAdmission(FakePool(8, *resident), max_loras, drain)


def now(seconds_ago: float = 0.0) -> float:
    return time.monotonic() - seconds_ago


def test_the_base_model_needs_no_place():
    gate = make_admission(1, A)
    gate.join(A)
    gate.begin([])
    assert gate.may_join(None)
    gate.join(None)
    gate.leave(None)


def test_no_more_adapters_than_there_are_places():
    gate = make_admission(2, A, B, C)
    for adapter in (A, B):
        assert gate.may_join(adapter)
        gate.join(adapter)
    assert not gate.may_join(C)
    assert gate.may_join(A), "another sequence of a running adapter takes no place"
    gate.join(A)
    gate.leave(A)
    assert not gate.may_join(C), "one sequence still runs on it"
    gate.leave(A)
    assert gate.may_join(C)


def test_an_adapter_that_has_not_arrived_may_not_run():
    gate = make_admission(2, A)
    assert not gate.may_join(B)
    assert gate.may_join(A)


def test_running_sequences_hold_their_adapter_in_memory():
    gate = make_admission(1, A)
    gate.join(A)
    gate.join(A)
    assert gate.pool.get(A).references == 2
    gate.leave(A)
    gate.leave(A)
    assert gate.pool.get(A).references == 0


def test_the_queue_is_prefetched_in_order_as_far_as_there_is_room():
    pool = FakePool(2)
    gate = AdapterAdmission(pool, 1)
    gate.begin([(A, now()), (B, now()), (C, now())])
    assert pool.prefetched == ["a", "b"]
    assert pool.kept[-1] == {"a", "b", "c"}, "those further ahead in the queue stay"


@pytest.mark.parametrize(("waited", "joins"), [(0.5, True), (2.0, False)])
def test_a_running_adapter_takes_no_more_once_another_has_waited(waited, joins):
    gate = make_admission(1, A, B, drain=1.0)
    gate.join(A)
    gate.begin([(B, now(waited))])
    assert gate.may_join(A) is joins
    assert not gate.may_join(B), "its place is not free yet"
    gate.leave(A)
    gate.begin([(B, now(waited))])
    assert gate.may_join(B)


def test_the_adapter_that_has_run_longest_drains(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(admission.time, "monotonic", lambda: float(next(clock)))
    gate = make_admission(2, A, B, C)
    for adapter in (B, A):
        gate.join(adapter)
    gate.begin([(C, LONG_AGO)])
    assert not gate.may_join(B)
    assert gate.may_join(A)


def test_draining_ends_when_nobody_waits_any_more():
    gate = make_admission(1, A, B)
    gate.join(A)
    gate.begin([(B, LONG_AGO)])
    assert not gate.may_join(A)
    gate.begin([])
    assert gate.may_join(A)


def test_nobody_drains_while_a_place_is_free():
    gate = make_admission(2, A, B)
    gate.join(A)
    gate.begin([(B, LONG_AGO)])
    assert gate.may_join(A)
    assert gate.may_join(B)


def test_nobody_drains_for_an_adapter_that_there_is_no_room_to_bring():
    pool = FakePool(1, A)
    gate = AdapterAdmission(pool, 1)
    gate.join(A)
    gate.begin([(B, LONG_AGO)])
    assert gate.may_join(A)


@settings(max_examples=100)
@given(
    st.integers(1, 3),
    st.lists(st.tuples(st.booleans(), st.sampled_from([None, A, B, C, D])), max_size=60),
)
def test_places_and_references_are_always_accounted_for(max_loras, events):
    """Sequences join when they may and leave at random, a draining adapter among them."""
    gate = make_admission(max_loras, A, B, C, D)
    running: list[Adapter | None] = []
    for joins, adapter in events:
        gate.begin([(D, LONG_AGO)])
        if joins and gate.may_join(adapter):
            gate.join(adapter)
            running.append(adapter)
        elif not joins and adapter in running:
            running.remove(adapter)
            gate.leave(adapter)
        held = {a.digest: running.count(a) for a in (A, B, C, D)}
        assert sum(count > 0 for count in held.values()) <= max_loras
        assert {d: r.references for d, r in gate.pool.resident.items()} == held
    for adapter in running:
        gate.leave(adapter)
    gate.begin([])
    assert all(gate.may_join(adapter) for adapter in (A, B, C, D))
