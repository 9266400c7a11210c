"""Memory of what was not found: short and bounded."""

from __future__ import annotations

import tracemalloc

from loramux.lora.resolve.recent_misses import RecentMisses


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_miss_is_forgotten_when_its_time_is_up_however_often_it_is_asked_about():
    clock = Clock()
    misses = RecentMisses(ttl=2, clock=clock)
    misses.add("name")
    for _ in range(3):
        clock.now += 0.6
        assert "name" in misses
    clock.now += 0.3
    assert "name" not in misses
    assert len(misses) == 0


def test_a_second_miss_counts_from_its_own_time():
    clock = Clock()
    misses = RecentMisses(ttl=2, clock=clock)
    misses.add("name")
    clock.now += 1.5
    misses.add("name")
    clock.now += 1.5
    assert "name" in misses


def test_the_oldest_miss_makes_room():
    misses = RecentMisses(ttl=60, capacity=2)
    for name in ("a", "b", "a", "c"):
        misses.add(name)
    assert [name in misses for name in "abc"] == [True, False, True]


def test_no_time_means_no_memory():
    misses = RecentMisses(ttl=0)
    misses.add("name")
    assert "name" not in misses
    assert len(misses) == 0


def test_memory_stays_flat():
    misses = RecentMisses(ttl=60)
    for number in range(10_000):
        misses.add(f"name-{number}")
    tracemalloc.start()
    for number in range(10_000, 60_000):
        misses.add(f"name-{number}")
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(misses) == 4096
    assert grown < 1_000_000
