"""Placing adapters on the device: bounded, held while in use, and failing for one adapter only."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import torch

from loramux.errors import AdapterRefusedError
from loramux.lora.adapter import Adapter
from loramux.lora.device.pool import DevicePool
from loramux.lora.weights import AdapterWeights, LowRankPair
from tests.lora.residents import CPU, make_adapter

TIMEOUT = 10


class Store:
    """Host memory in a test: counts what is fetched, and can be slow or broken."""

    def __init__(self) -> None:
        self.fetched: list[str] = []
        self.failures: dict[str, Exception] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.changes = threading.Semaphore(0)
        self.threads = ThreadPoolExecutor(1)

    def fetch_later(self, adapter: Adapter) -> Future[AdapterWeights]:
        return self.threads.submit(self.fetch, adapter)

    def fetch(self, adapter: Adapter) -> AdapterWeights:
        assert self.gate.wait(TIMEOUT)
        self.fetched.append(adapter.digest)
        if adapter.digest in self.failures:
            raise self.failures[adapter.digest]
        torch.manual_seed(ord(adapter.digest[0]))
        pair = LowRankPair(torch.randn(3, 5), torch.randn(7, 3), 2.0)
        return AdapterWeights(adapter.digest, {"site": pair})

    def on_change(self) -> None:
        self.changes.release()

    def wait(self) -> None:
        """Until one more placement has ended."""
        assert self.changes.acquire(timeout=TIMEOUT)


ADAPTERS = {digest: make_adapter(digest) for digest in "abcd"}


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def make_pool(store) -> Iterator[Callable[[int], DevicePool]]:
    pools = []

    def make(capacity: int) -> DevicePool:
        pool = DevicePool(store.fetch_later, CPU, torch.float32, capacity, store.on_change)
        pools.append(pool)
        return pool

    yield make
    store.gate.set()
    for pool in pools:
        pool.shutdown()


def place(pool: DevicePool, store: Store, *digests: str) -> None:
    for digest in digests:
        assert pool.prefetch(ADAPTERS[digest])
        store.wait()
        pool.collect()


def test_an_adapter_arrives_transposed_at_its_true_rank(store, make_pool):
    pool = make_pool(1)
    assert pool.get(ADAPTERS["a"]) is None
    place(pool, store, "a")
    pair, expected = pool.get(ADAPTERS["a"]).pairs["site"], store.fetch(ADAPTERS["a"]).pairs["site"]
    assert torch.equal(pair.a, expected.a.T)
    assert torch.equal(pair.b, expected.b.T)
    assert pair.a.is_contiguous()
    assert pair.b.is_contiguous()
    assert (pair.rank, pair.scaling) == (3, 2.0)
    assert ADAPTERS["a"].load_seconds["place"] >= 0


def test_nothing_is_here_before_it_was_collected(store, make_pool):
    pool = make_pool(1)
    store.gate.clear()
    assert pool.prefetch(ADAPTERS["a"])
    assert pool.prefetch(ADAPTERS["a"]), "asking again is no second placement"
    pool.collect()
    assert pool.get(ADAPTERS["a"]) is None
    store.gate.set()
    store.wait()
    pool.collect()
    assert pool.get(ADAPTERS["a"]) is not None
    assert store.fetched == ["a"]


def test_the_one_unused_for_longest_makes_room(store, make_pool):
    pool = make_pool(2)
    place(pool, store, "a", "b")
    pool.get(ADAPTERS["a"])
    place(pool, store, "c")
    assert pool.resident_digests == {"a", "c"}


def test_what_a_sequence_runs_on_is_never_evicted(store, make_pool):
    pool = make_pool(2)
    place(pool, store, "a", "b")
    pool.hold(ADAPTERS["a"])
    place(pool, store, "c")
    assert pool.resident_digests == {"a", "c"}
    pool.hold(ADAPTERS["c"])
    assert not pool.prefetch(ADAPTERS["d"])
    assert pool.resident_digests == {"a", "c"}


def test_what_the_caller_keeps_is_not_evicted(store, make_pool):
    pool = make_pool(2)
    place(pool, store, "a", "b")
    assert not pool.prefetch(ADAPTERS["c"], keep={"a", "b"})
    assert pool.prefetch(ADAPTERS["c"], keep={"a"})
    assert pool.resident_digests == {"a"}
    store.wait()


def test_adapters_on_their_way_count(store, make_pool):
    pool = make_pool(2)
    store.gate.clear()
    assert pool.prefetch(ADAPTERS["a"])
    assert pool.prefetch(ADAPTERS["b"])
    assert not pool.prefetch(ADAPTERS["c"])


def test_a_failure_is_told_once_and_may_be_tried_again(store, make_pool):
    pool = make_pool(1)
    error = store.failures["a"] = AdapterRefusedError("gone")
    place(pool, store, "a")
    assert pool.get(ADAPTERS["a"]) is None
    assert pool.take_failures() == {"a": error}
    assert pool.take_failures() == {}
    del store.failures["a"]
    place(pool, store, "a")
    assert pool.get(ADAPTERS["a"]) is not None


def test_a_failure_nobody_has_been_told_of_is_not_tried_again(store, make_pool):
    """The scheduler prefetches for its whole queue before it asks what has failed."""
    pool = make_pool(1)
    store.failures["a"] = AdapterRefusedError("gone")
    place(pool, store, "a")
    assert pool.prefetch(ADAPTERS["a"])
    pool.take_failures()
    place(pool, store, "b")
    assert store.fetched == ["a", "b"]


def test_a_failure_frees_its_place_and_stops_no_other(store, make_pool):
    pool = make_pool(1)
    store.failures["a"] = MemoryError()
    place(pool, store, "a", "b")
    assert pool.resident_digests == {"b"}
    assert list(pool.take_failures()) == ["a"]


def test_a_retired_adapter_leaves_with_the_last_sequence_that_runs_on_it(store, make_pool):
    pool = make_pool(2)
    place(pool, store, "a", "b")
    pool.hold(ADAPTERS["a"])
    pool.hold(ADAPTERS["a"])
    pool.retire("a")
    pool.retire("b")
    pool.retire("nobody knows this one")
    pool.collect()
    assert pool.resident_digests == {"a"}
    pool.let_go(ADAPTERS["a"])
    assert pool.resident_digests == {"a"}
    pool.let_go(ADAPTERS["a"])
    assert pool.resident_digests == frozenset()


def test_a_request_that_was_waiting_does_not_undo_an_unload(store, make_pool):
    pool = make_pool(1)
    evicted = []
    pool.on_evict = evicted.append
    place(pool, store, "a")
    pool.hold(ADAPTERS["a"])
    pool.retire("a")
    store.wait()
    pool.collect()
    pool.hold(ADAPTERS["a"])
    pool.let_go(ADAPTERS["a"])
    assert pool.resident_digests == {"a"}
    pool.let_go(ADAPTERS["a"])
    assert pool.resident_digests == frozenset()
    assert [resident.digest for resident in evicted] == ["a"]
    place(pool, store, "a")
    assert pool.resident_digests == {"a"}, "asked for again, it is placed again"


def test_a_panic_while_placing_is_told_like_any_failure(store, make_pool):
    class Panic(BaseException):
        pass

    pool = make_pool(2)
    store.failures["a"] = Panic("a library gave up")
    place(pool, store, "a", "b")
    assert pool.resident_digests == {"b"}
    assert "a library gave up" in str(pool.take_failures()["a"])
