"""Placing adapters on the device: bounded, held while in use, and failing for one adapter only."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from unittest.mock import Mock

import pytest
import torch

from loramux.errors import AdapterRefusedError
from loramux.lora.adapter import Adapter
from loramux.lora.device.admission import AdapterAdmission
from loramux.lora.device.coming import MAX_COMING
from loramux.lora.device.pool import DevicePool
from loramux.lora.device.store import TensorStore
from loramux.lora.weights import AdapterWeights, LowRankPair
from tests.lora.residents import make_adapter

TIMEOUT = 60


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
        """Until another thread has brought something."""
        assert self.changes.acquire(timeout=TIMEOUT)


ADAPTERS = {digest: make_adapter(digest) for digest in "abcd"}


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def make_pool(store) -> Iterator[Callable[[int], DevicePool]]:
    pools = []

    def make(capacity: int) -> DevicePool:
        pool = DevicePool(store.fetch_later, TensorStore(torch.float32, capacity), store.on_change)
        pools.append(pool)
        return pool

    yield make
    store.gate.set()
    for pool in pools:
        pool.shutdown()


def place(pool: DevicePool, store: Store, *digests: str) -> None:
    """Ask for adapters, one by one, until they are here or have failed."""
    for digest in digests:
        while digest not in pool.resident_digests and digest not in pool._failures:
            assert pool.prefetch(ADAPTERS[digest])
            if digest not in pool._failures:
                store.wait()
            pool.collect()


def fetched(pool: DevicePool, store: Store, digest: str, keep: set[str] = frozenset()) -> bool:
    """Whether there was room for an adapter when its tensors had come."""
    has_room = pool.prefetch(ADAPTERS[digest], keep)
    if digest in pool._coming:
        pool._coming[digest].weights.result(TIMEOUT)
        has_room = pool.prefetch(ADAPTERS[digest], keep)
    return has_room


def placed(pool: DevicePool, store: Store, digest: str) -> None:
    """Until a placement has ended that the engine's thread does not know of yet."""
    assert fetched(pool, store, digest)
    while not pool._placing.has_arrivals:
        store.wait()


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
    assert pool.prefetch(ADAPTERS["a"])
    store.wait()
    assert pool.get(ADAPTERS["a"]) is None
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
    assert not fetched(pool, store, "d")
    assert pool.resident_digests == {"a", "c"}


def test_what_the_caller_keeps_is_not_evicted(store, make_pool):
    pool = make_pool(2)
    place(pool, store, "a", "b")
    assert fetched(pool, store, "c", keep={"a", "b"}) is False
    assert pool.prefetch(ADAPTERS["c"], keep={"a"})
    assert pool.resident_digests == {"a"}
    store.wait()


def test_adapters_on_their_way_count(store, make_pool):
    pool = make_pool(2)
    assert fetched(pool, store, "a")
    assert fetched(pool, store, "b")
    assert not fetched(pool, store, "c")


def test_what_waits_for_room_is_not_fetched_again(store, make_pool):
    pool = make_pool(1)
    place(pool, store, "a")
    pool.hold(ADAPTERS["a"])
    assert not fetched(pool, store, "b")
    pool.let_go(ADAPTERS["a"])
    place(pool, store, "b")
    assert pool.resident_digests == {"b"}
    assert store.fetched == ["a", "b"]


def test_few_adapters_are_fetched_at_once_and_forgotten_ones_give_way(store, make_pool):
    pool = make_pool(1)
    store.gate.clear()
    many = [make_adapter(f"{number}") for number in range(MAX_COMING + 1)]
    for adapter in many[:-1]:
        assert pool.prefetch(adapter)
    assert not pool.prefetch(many[-1]), "all of them are wanted"
    pool.collect()
    for adapter in many[1:-1]:
        assert pool.prefetch(adapter)
    assert pool.prefetch(many[-1])
    assert not pool.prefetch(many[0])
    store.gate.set()


def test_an_order_takes_the_place_of_one_that_is_fetched_and_of_no_other(store, make_pool):
    pool = make_pool(1)
    store.gate.clear()
    waiting = [make_adapter(f"{number}") for number in range(MAX_COMING)]
    for adapter in waiting:
        assert pool.prefetch(adapter)
    fetching = {digest: coming.weights for digest, coming in pool._coming.items()}
    pool.order(ADAPTERS["a"])
    pool.collect()
    assert [pool.prefetch(adapter) for adapter in waiting] == [True] * (MAX_COMING - 1) + [False]
    now = {digest: coming.weights for digest, coming in pool._coming.items()}
    given_up = [digest for digest, weights in fetching.items() if now.get(digest) is not weights]
    assert given_up == [waiting[-1].digest]
    store.gate.set()


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
    place(pool, store, "a")
    assert list(pool.take_failures()) == ["a"]
    place(pool, store, "b")
    assert pool.resident_digests == {"b"}


@pytest.mark.parametrize("stage", ["fetch", "place"])
def test_a_failure_whose_requests_have_gone_is_told_to_none_that_comes_later(
    store, make_pool, monkeypatch, stage
):
    pool = make_pool(1)
    error = AdapterRefusedError("the storage was away")
    if stage == "fetch":
        store.failures["a"] = error
        assert pool.prefetch(ADAPTERS["a"])
        store.threads.submit(int).result(TIMEOUT)  # it has failed by then
    else:
        with monkeypatch.context() as broken:
            broken.setattr(pool.store, "fill", Mock(side_effect=error))
            placed(pool, store, "a")
    for _ in range(3):
        pool.collect()
    store.failures.clear()
    assert fetched(pool, store, "a")
    assert pool.take_failures() == {}


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


def test_what_is_unloaded_on_its_way_does_not_stay_for_requests_that_have_gone(store, make_pool):
    pool = make_pool(1)
    evicted = []
    pool.on_evict = evicted.append
    placed(pool, store, "a")
    pool.retire("a")
    pool._wanted.clear()
    pool.collect()
    assert pool.resident_digests == frozenset()
    assert evicted == [], "it never was here"
    place(pool, store, "b")
    assert pool.resident_digests == {"b"}, "its room is free again"


@pytest.mark.parametrize("joins", [True, False])
def test_what_is_unloaded_on_its_way_serves_who_waits_for_it(store, make_pool, joins):
    pool = make_pool(1)
    placed(pool, store, "a")
    pool.retire("a")
    pool.collect()
    assert pool.resident_digests == {"a"}
    assert pool.prefetch(ADAPTERS["a"]), "the scheduler asks as long as somebody waits"
    pool.collect()
    assert pool.resident_digests == {"a"}
    if joins:
        pool.hold(ADAPTERS["a"])
        pool.collect()
        assert pool.resident_digests == {"a"}
        pool.let_go(ADAPTERS["a"])
    else:
        pool.collect()
    assert pool.resident_digests == frozenset()


def test_what_is_unloaded_while_it_waits_for_room_is_kept_for_who_waits_only(store, make_pool):
    """Also for who stands behind one that there is no room for: its files may be gone by now."""
    pool = make_pool(1)
    gate = AdapterAdmission(pool, max_loras=1)
    place(pool, store, "a")
    pool.hold(ADAPTERS["a"])
    for digest in "bc":
        assert not fetched(pool, store, digest)
        pool.retire(digest)
    queue = [(ADAPTERS[digest], time.monotonic()) for digest in "bc"]
    for _ in range(3):
        gate.begin(queue)
    assert list(pool._coming) == ["b", "c"]
    for _ in range(2):
        gate.begin(queue[1:])
    assert list(pool._coming) == ["c"]
    for _ in range(2):
        pool.collect()
    assert not pool._coming, "unloading frees the host's memory, too"


def test_what_is_unloaded_while_it_is_fetched_is_not_kept_either(store, make_pool):
    pool = make_pool(1)
    store.gate.clear()
    assert pool.prefetch(ADAPTERS["a"])
    pool.retire("a")
    pool.collect()
    store.gate.set()
    place(pool, store, "a")
    assert pool._resident["a"].is_retired
    pool.collect()
    assert pool.resident_digests == frozenset()


def test_a_panic_while_placing_is_told_like_any_failure(store, make_pool):
    class Panic(BaseException):
        pass

    pool = make_pool(2)
    store.failures["a"] = Panic("a library gave up")
    place(pool, store, "a")
    assert "a library gave up" in str(pool.take_failures()["a"])
    place(pool, store, "b")
    assert pool.resident_digests == {"b"}


def carried_out(pool: DevicePool, store: Store, order: Future[None]) -> None:
    """Turn the pool as the engine's thread does, until an order is done."""
    while not order.done():
        pool.collect()
        if not order.done():
            store.wait()


def test_an_order_brings_an_adapter_that_no_sequence_asks_for(store, make_pool):
    pool = make_pool(1)
    order = pool.order(ADAPTERS["a"])
    assert not order.done()
    carried_out(pool, store, order)
    assert order.result() is None
    assert pool.resident_digests == {"a"}
    assert pool.references() == {"a": 0}


def test_an_order_ends_as_its_placement_does_and_can_be_given_again(store, make_pool):
    pool = make_pool(1)
    store.failures["a"] = AdapterRefusedError("broken")
    order = pool.order(ADAPTERS["a"])
    carried_out(pool, store, order)
    assert order.exception() is store.failures.pop("a")
    carried_out(pool, store, again := pool.order(ADAPTERS["a"]))
    assert again.result() is None


def test_an_order_undoes_an_unload_and_an_unload_an_order(store, make_pool):
    """Loaded again while requests of before still run, and pinned, it has to stay after them."""
    pool = make_pool(1)
    place(pool, store, "a")
    pool.hold(ADAPTERS["a"])
    pool.retire("a")
    carried_out(pool, store, pool.order(ADAPTERS["a"]))
    pool.let_go(ADAPTERS["a"])
    pool.collect()
    assert pool.resident_digests == {"a"}
    order = pool.order(ADAPTERS["a"])
    pool.retire("a")
    pool.collect()
    assert order.cancel() or order.done()
    pool.collect()
    assert pool.resident_digests == frozenset()


def test_an_order_waits_for_room_until_it_is_cancelled(store, make_pool):
    pool = make_pool(1)
    place(pool, store, "a")
    pool.hold(ADAPTERS["a"])
    waiting, cancelled = pool.order(ADAPTERS["b"]), pool.order(ADAPTERS["c"])
    assert cancelled.cancel()
    for _ in range(3):
        pool.collect()
    assert not waiting.done()
    pool.let_go(ADAPTERS["a"])
    carried_out(pool, store, waiting)
    assert pool.resident_digests == {"b"}
    assert "c" not in store.fetched


def test_a_pinned_adapter_makes_no_room(store, make_pool):
    pool = make_pool(2)
    pool.pinned = frozenset("a")
    place(pool, store, "a", "b", "c", "d")
    assert pool.resident_digests == {"a", "d"}
    pool.pinned = frozenset()
    place(pool, store, "b")
    assert pool.resident_digests == {"d", "b"}


def test_a_pinned_adapter_can_still_be_unloaded(store, make_pool):
    pool = make_pool(2)
    pool.pinned = frozenset("a")
    place(pool, store, "a")
    pool.retire("a")
    pool.collect()
    assert pool.resident_digests == frozenset()
