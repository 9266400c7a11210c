"""Adapters in host memory: bounded, and the one unused for longest leaves first."""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loramux.env import EnvironmentVariableError
from loramux.lora.fetch.host_cache import HostCache
from loramux.lora.weights import AdapterWeights, LowRankPair

WEIGHTS = {digest: AdapterWeights(digest, {}) for digest in "abcde"}
ACTIONS = st.tuples(st.sampled_from(["put", "get", "discard"]), st.sampled_from("abcde"))


@given(st.integers(1, 4), st.lists(ACTIONS, max_size=40))
def test_it_keeps_what_was_used_last(capacity, actions):
    cache, expected = HostCache(capacity), OrderedDict()
    for action, digest in actions:
        if action == "put":
            cache.put(WEIGHTS[digest])
            expected[digest] = None
            expected.move_to_end(digest)
            if len(expected) > capacity:
                expected.popitem(last=False)
        elif action == "get":
            assert cache.get(digest) is (WEIGHTS[digest] if digest in expected else None)
            if digest in expected:
                expected.move_to_end(digest)
        else:
            cache.discard(digest)
            expected.pop(digest, None)
        assert len(cache) == len(expected)
        assert [d for d in WEIGHTS if d in cache] == sorted(expected)


def sized(digest: str, num_bytes: int) -> AdapterWeights:
    pair = LowRankPair(torch.zeros(1, num_bytes - 1, dtype=torch.int8), torch.zeros(1, 1).char(), 1)
    return AdapterWeights(digest, {"site": pair})


@given(
    st.integers(2, 20),
    st.lists(st.tuples(st.sampled_from("abcde"), st.integers(2, 12)), min_size=1, max_size=30),
)
def test_bytes_bound_it_too(max_bytes, puts):
    """The latest stays whatever its size; of the others, as many as fit, the oldest leaving."""
    cache, expected = HostCache(4, max_bytes), []
    for digest, size in puts:
        cache.put(sized(digest, size))
        expected = [(d, s) for d, s in expected if d != digest] + [(digest, size)]
        while len(expected) > 4 or (len(expected) > 1 and sum(s for _, s in expected) > max_bytes):
            expected.pop(0)
        assert [d for d in "abcde" if d in cache] == sorted(d for d, _ in expected)
        assert cache.num_bytes == sum(s for _, s in expected)
    for digest, _ in expected:
        cache.discard(digest)
    assert cache.num_bytes == 0


def test_size_from_the_environment(monkeypatch):
    monkeypatch.setenv("LORAMUX_HOST_CACHE_BYTES", "2KiB")
    assert HostCache(3).max_bytes == 2048
    monkeypatch.delenv("LORAMUX_HOST_CACHE_BYTES")
    assert HostCache(3).max_bytes > 2**26
    monkeypatch.setenv("LORAMUX_HOST_CACHE_BYTES", "much")
    with pytest.raises(EnvironmentVariableError, match="LORAMUX_HOST_CACHE_BYTES"):
        HostCache(3)


def test_many_threads_never_carry_it_past_its_capacity():
    cache = HostCache(2)

    def use(number: int) -> int:
        digest = "abcde"[number % 5]
        cache.put(WEIGHTS[digest])
        found = cache.get("abcde"[number % 3])
        assert found is None or found is WEIGHTS["abcde"[number % 3]]
        return len(cache)

    with ThreadPoolExecutor(8) as threads:
        assert max(threads.map(use, range(2000))) <= 2


def test_pinned_adapters_stay_beyond_the_bounds():
    cache = HostCache(2)
    cache.pinned = frozenset("ab")
    for digest in "abcd":
        cache.put(WEIGHTS[digest])
    assert [digest for digest in WEIGHTS if digest in cache] == ["a", "b", "d"]
    cache.pinned = frozenset()
    cache.put(WEIGHTS["e"])
    assert len(cache) == 2
    assert "e" in cache
