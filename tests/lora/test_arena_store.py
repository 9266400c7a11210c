"""Adapters in the arena: every bit where the table says, and room by bytes."""

from __future__ import annotations

import random
import threading
from concurrent.futures import Future

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loramux.errors import AdapterRefusedError, AdapterUnavailableError
from loramux.lora.adapter import Adapter
from loramux.lora.device.arena_store import ArenaStore, packed_first
from loramux.lora.device.pieces import Move, cut, gather, split_runs
from loramux.lora.device.pool import DevicePool
from loramux.lora.site import PackedSites
from loramux.lora.weights import AdapterWeights, LowRankPair
from tests.lora.arena_cases import SITES, check_resident, make_store, make_weights
from tests.lora.residents import make_adapter

PAGE = 4096
"""Elements of float32 in a page of the arena."""


def place(store: ArenaStore, weights: AdapterWeights):
    resident = store.prepare(make_adapter(weights.digest), weights)
    assert store.reserve(resident)
    store.fill(resident, weights)
    store.publish(resident)
    return resident


@pytest.fixture
def stores():
    made = []

    def make(*arguments, **options) -> ArenaStore:
        made.append(make_store(*arguments, **options))
        return made[-1]

    yield make
    for store in made:
        store.shutdown()


@pytest.mark.parametrize("one_buffer", [True, False])
@pytest.mark.parametrize("slot_bytes", [1024, 1 << 20])
@pytest.mark.parametrize("source", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_bit_arrives(stores, dtype, source, slot_bytes, one_buffer):
    store = stores(40 * PAGE, dtype, slot_bytes)
    ranks = {"q": 5, "k": 1, "down": 16, "embed": 3}
    weights = make_weights("a", ranks, source, one_buffer=one_buffer)
    resident = place(store, weights)
    check_resident(resident, weights, dtype)
    for column, (name, pair) in enumerate(weights.pairs.items()):
        site = SITES[name]
        record = store.table.records[resident.slot, column]
        assert record[2] == pair.rank
        assert record[3:].view(torch.float32) == pair.scaling
        if name != "embed":
            a, b, _ = store.table.pair(resident.slot, column, site.in_features, site.out_features)
            assert torch.equal(a, pair.a.to(dtype))
            assert torch.equal(b, pair.b.to(dtype).t())


def test_tensors_of_several_types_and_strides_arrive(stores):
    store = stores(40 * PAGE, slot_bytes=1024)
    weights = AdapterWeights(
        "mixed",
        {
            "q": LowRankPair(torch.randn(24, 6).t(), torch.randn(32, 6).bfloat16(), 1.0),
            "k": LowRankPair(torch.randn(2, 24).half(), torch.randn(9, 4)[:, ::2], 2.0),
        },
    )
    check_resident(place(store, weights), weights, torch.float32)


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40), st.booleans()), max_size=8),
    st.integers(200, 3000),
    st.integers(1, 5),
)
def test_pieces_hold_every_byte_once(shapes, max_bytes, max_records):
    matrices = [torch.randint(0, 256, (r, c)).float() for r, c, _ in shapes]
    moves = [Move(m, 0, t) for m, (_, _, t) in zip(matrices, shapes, strict=True)]
    total = 0
    for piece in cut(moves, max_bytes, max_records):
        assert piece.num_bytes <= max_bytes
        assert piece.num_records <= max_records
        data = torch.zeros(piece.num_bytes, dtype=torch.uint8)
        for group in split_runs(piece.runs, 100):
            assert sum(run.num_bytes for run in group) <= 100
            gather(group, data.data_ptr())
        fields = list(piece.records[torch.float32])
        for place in range(0, len(fields), 5):
            start, rows, columns = fields[place : place + 3]
            values = data[4 * start : 4 * (start + rows * columns)].clone().view(torch.float32)
            total += values.double().sum().item()
    assert total == sum(matrix.double().sum().item() for matrix in matrices)


def test_a_row_larger_than_the_staging_area_is_told(stores):
    store = stores(40 * PAGE, slot_bytes=64)
    weights = make_weights("a", {"embed": 1})
    resident = store.prepare(make_adapter("a"), weights)
    assert store.reserve(resident)
    with pytest.raises(ValueError, match="make the staging area larger"):
        store.fill(resident, weights)
    store.free(resident)
    small = make_weights("b", {"k": 1})
    check_resident(place(store, small), small, torch.float32)


def test_an_adapter_larger_than_the_arena_is_refused(stores):
    store = stores(2 * PAGE)
    place(store, make_weights("a", {"q": 64}))
    with pytest.raises(AdapterRefusedError, match="raise lora_memory_bytes"):
        store.prepare(make_adapter("b"), make_weights("b", {"q": 200}))


def test_rows_of_the_table_are_limited_too(stores):
    store = stores(40 * PAGE, max_resident=1)
    first = place(store, make_weights("a", {"k": 1}))
    weights = make_weights("b", {"k": 1})
    resident = store.prepare(make_adapter("b"), weights)
    assert not store.reserve(resident)
    store.free(first)
    assert store.reserve(resident)
    assert resident.slot == first.slot


def test_columns_follow_the_projections():
    packed = [PackedSites("kq", (SITES["k"], SITES["q"])), PackedSites("down", (SITES["down"],))]
    names = [site.name for site in packed_first(SITES, packed)]
    assert names == ["k", "q", "down", "embed"]


class World:
    """A pool over an arena of few pages, and adapters that do not all fit."""

    def __init__(self, num_pages: int) -> None:
        self.weights: dict[str, AdapterWeights] = {}
        self.adapters: dict[str, Adapter] = {}
        self.store = make_store(num_pages * PAGE)
        self.changed = threading.Semaphore(0)
        self.pool = DevicePool(self.fetch, self.store, self.changed.release)

    def add(self, digest: str, ranks: dict[str, int], seed: int = 0) -> None:
        self.weights[digest] = make_weights(digest, ranks, seed=seed)
        self.adapters[digest] = make_adapter(digest)

    def fetch(self, adapter: Adapter) -> Future[AdapterWeights]:
        future: Future[AdapterWeights] = Future()
        future.set_result(self.weights[adapter.digest])
        return future

    def place(self, digest: str, keep=()) -> bool:
        """Ask for an adapter and wait until it is here; False if there was no room."""
        if not self.pool.prefetch(self.adapters[digest], keep):
            return False
        while self.pool._placing:
            assert self.changed.acquire(timeout=60)
            self.pool.collect()
        return True

    def check(self) -> None:
        for digest, resident in self.pool._resident.items():
            check_resident(resident, self.weights[digest], torch.float32)

    def close(self) -> None:
        self.pool.shutdown()


@pytest.fixture
def world():
    made = World(8)
    yield made
    made.close()


def test_as_many_adapters_are_evicted_as_the_new_one_needs(world):
    for number, digest in enumerate("abcd"):
        world.add(digest, {"q": 128}, seed=number)  # two pages each
        assert world.place(digest)
    world.pool.get(world.adapters["a"])
    world.pool.hold(world.adapters["c"])
    world.add("wide", {"q": 250})  # four pages
    assert world.place("wide")
    assert world.pool.resident_digests == {"a", "c", "wide"}
    world.check()


def test_what_is_held_leaves_no_room_and_what_is_too_large_is_told(world):
    world.add("a", {"q": 256})
    world.add("b", {"q": 400})
    world.add("huge", {"q": 900})
    assert world.place("a")
    world.pool.hold(world.adapters["a"])
    assert not world.place("b")
    assert world.place("huge")
    failures = world.pool.take_failures()
    assert isinstance(failures["huge"], AdapterRefusedError)
    world.pool.let_go(world.adapters["a"])
    assert world.place("b")
    assert world.pool.resident_digests == {"b"}
    world.check()


def test_what_pins_leave_no_room_for_is_told_and_keeps_nobody_waiting(world):
    world.add("pinned", {"q": 256})  # four pages of eight
    world.add("other", {"q": 128})
    world.add("wide", {"q": 320})  # five
    world.pool.pinned = frozenset({"pinned"})
    assert world.place("pinned")
    assert world.place("other")
    world.pool.hold(world.adapters["other"])
    assert world.place("wide"), "nobody behind it would be looked at"
    failure = world.pool.take_failures()["wide"]
    assert isinstance(failure, AdapterUnavailableError)
    assert "1 pinned" in str(failure)
    assert world.pool.resident_digests == {"pinned", "other"}
    world.pool.pinned = frozenset()
    assert not world.place("wide"), "a sequence holds what it needs, for a while"
    world.pool.let_go(world.adapters["other"])
    assert world.place("wide")
    assert world.pool.resident_digests == {"wide"}


def test_nobody_is_evicted_for_who_needs_room_in_one_piece(world):
    for number, digest in enumerate("abcd"):
        world.add(digest, {"q": 128}, seed=number)  # two pages each
        assert world.place(digest)
    for digest in "bd":
        world.pool.hold(world.adapters[digest])
    world.add("long", {"down": 200})  # four pages, more than two of them for one matrix
    assert not world.place("long"), "two pages would be free here, and two there"
    assert world.pool.resident_digests == {"a", "b", "c", "d"}
    world.pool.pinned = frozenset("bd")
    assert world.place("long")
    assert "2 pinned" in str(world.pool.take_failures()["long"])
    world.pool.pinned = frozenset()
    world.pool.let_go(world.adapters["b"])
    assert world.place("long")


def test_nobody_is_evicted_for_who_has_no_room_all_the_same(world):
    for number, digest in enumerate("abc"):
        world.add(digest, {"q": 128}, seed=number)  # two pages each
        assert world.place(digest)
    world.pool.hold(world.adapters["a"])
    world.add("wide", {"q": 450})  # seven pages, and there are six that nobody holds
    assert not world.place("wide")
    assert world.pool.resident_digests == {"a", "b", "c"}
    world.pool.let_go(world.adapters["a"])
    assert world.place("wide")
    assert world.pool.resident_digests == {"wide"}


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_nothing_is_overwritten_while_it_is_here(seed):
    chance = random.Random(seed)
    world = World(12)
    try:
        for number in range(12):
            names = chance.sample(sorted(SITES), chance.randint(1, 4))
            ranks = {name: chance.choice([1, 3, 8, 17, 64, 100, 256]) for name in names}
            world.add(str(number), ranks, seed=number)
        held: list[str] = []
        for _ in range(40):
            digest = str(chance.randrange(12))
            world.place(digest)
            if digest in world.pool.resident_digests and chance.random() < 0.3:
                world.pool.hold(world.adapters[digest])
                held.append(digest)
            if held and chance.random() < 0.4:
                world.pool.let_go(world.adapters[held.pop(chance.randrange(len(held)))])
            if chance.random() < 0.2:
                world.pool.retire(digest)
            world.check()
        for digest in held:
            world.pool.let_go(world.adapters[digest])
        for digest in world.pool.resident_digests:
            world.pool.retire(digest)
        world.pool.collect()
        assert world.store._books.free_pages == 12
        assert len(world.store._free_slots) == world.store.table.max_resident
    finally:
        world.close()
