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

    def note_waiting(self, adapter: Adapter) -> None:
        """What comes to it is kept anyway."""

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


@pytest.mark.parametrize(("waited", "joins"), [(0.5, True), (2.0, False)])
def test_a_held_adapter_drains_for_one_that_there_is_no_room_for(waited, joins):
    gate = AdapterAdmission(FakePool(1, A), 2, 1.0)
    gate.join(A)
    gate.begin([(B, now(waited))])
    assert gate.may_join(A) is joins


def test_a_suspended_sequence_holds_its_adapter_but_no_place():
    gate = make_admission(1, A, B)
    gate.join(A)
    gate.suspend(A)
    assert gate.pool.get(A).references == 1
    assert gate.may_join(B)
    gate.join(B)
    assert not gate.may_resume(A)
    gate.leave(B)
    assert gate.may_resume(A)
    gate.resume(A)
    assert not gate.may_join(B)
    assert gate.pool.get(A).references == 1
    gate.leave(A)
    assert gate.pool.get(A).references == 0


def test_a_suspended_sequence_that_is_aborted_lets_its_adapter_go():
    gate = make_admission(1, A)
    gate.join(A)
    gate.join(A)
    gate.suspend(A)
    gate.abandon(A)
    assert gate.pool.get(A).references == 1
    gate.leave(A)
    assert gate.pool.get(A).references == 0
    for act in (gate.suspend, gate.resume, gate.abandon):
        act(None)
    assert gate.may_resume(None)


def test_what_suspended_sequences_hold_takes_only_them_when_it_is_in_the_way():
    gate = AdapterAdmission(FakePool(1, A), 1)
    gate.join(A)
    gate.suspend(A)
    gate.begin([(A, LONG_AGO), (B, LONG_AGO)])
    assert not gate.may_join(A), "nobody new, or B would wait for ever"
    assert gate.may_resume(A)
    gate.resume(A)
    gate.leave(A)


class Simulation:
    """Sequences over a pool of few places; what is asked for arrives at once."""

    def __init__(self, capacity: int, max_loras: int) -> None:
        self.pool = SmallPool(capacity)
        self.gate = AdapterAdmission(self.pool, max_loras, drain_threshold=-1.0)
        self.waiting: list[Adapter] = []
        self.suspended: list[Adapter] = []
        self.running: list[Adapter] = []

    def step(self) -> None:
        """What a scheduler does: those who were preempted first, then by arrival."""
        self.gate.begin([(adapter, LONG_AGO) for adapter in self.suspended + self.waiting])
        for adapter in list(self.suspended):
            if self.gate.may_resume(adapter):
                self.gate.resume(adapter)
                self.suspended.remove(adapter)
                self.running.append(adapter)
        for adapter in list(self.waiting):
            if self.gate.may_join(adapter):
                self.gate.join(adapter)
                self.waiting.remove(adapter)
                self.running.append(adapter)
        assert len(set(self.running)) <= self.gate.max_loras
        for adapter in (A, B, C, D):
            held = self.pool.resident.get(adapter.digest)
            users = self.running.count(adapter) + self.suspended.count(adapter)
            assert (held.references if held else 0) == users

    def finish(self, which: int) -> None:
        self.gate.leave(self.running.pop(which % len(self.running)))

    def preempt(self) -> None:
        adapter = self.running.pop()
        self.gate.suspend(adapter)
        self.suspended.append(adapter)

    def abort_suspended(self) -> None:
        self.gate.abandon(self.suspended.pop())


class SmallPool(FakePool):
    """Evicts what nobody holds, for room; adapters arrive at once."""

    def prefetch(self, adapter: Adapter, keep: set[str]) -> bool:
        if adapter.digest in self.resident:
            return True
        idle = [d for d, r in self.resident.items() if not r.references and d not in keep]
        while len(self.resident) >= self.capacity:
            if not idle:
                return False
            del self.resident[idle.pop(0)]
        self.resident[adapter.digest] = ResidentAdapter(adapter, {})
        return True


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.lists(st.sampled_from(["a", "b", "c", "d", "finish", "preempt", "abort"]), max_size=60),
)
def test_holding_never_locks_the_pool(capacity, max_loras, events):
    """Whatever was preempted before: with nobody arriving any more, everybody ends."""
    world = Simulation(capacity, max_loras)
    for event in events:
        if event == "finish" and world.running:
            world.finish(0)
        elif event == "preempt" and world.running:
            world.preempt()
        elif event == "abort" and world.suspended:
            world.abort_suspended()
        elif event in "abcd":
            world.waiting.append({"a": A, "b": B, "c": C, "d": D}[event])
        world.step()
    for _ in range(len(world.waiting + world.suspended + world.running)):
        assert world.running, "nobody can run"
        world.finish(0)
        world.step()
    assert not world.waiting + world.suspended + world.running
    assert not world.gate._since


@pytest.mark.parametrize("capacity", [1, 2])
def test_those_who_keep_coming_do_not_starve_one_that_needs_their_room(capacity):
    world = Simulation(capacity, 2)
    others = [A, B][:capacity]
    world.waiting = list(others)
    world.step()
    world.waiting.append(D)
    for _ in range(4):
        world.waiting += others
        world.preempt()
        world.step()
        world.finish(0)
        world.step()
        if D in world.running:
            return
    raise AssertionError("the last adapter never ran")


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
