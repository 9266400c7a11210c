"""Adapters in host memory: bounded, and the one unused for longest leaves first."""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from loramux.lora.fetch.host_cache import HostCache
from loramux.lora.weights import AdapterWeights

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
