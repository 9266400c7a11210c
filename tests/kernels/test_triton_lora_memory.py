"""What the LoRA kernels read from memory: the arena's books, the adapter table, the work list."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from loramux_kernels.triton_lora import (
    DECODE,
    GRANULE,
    PAGE_BYTES,
    PREFILL,
    AdapterTable,
    Allocation,
    Arena,
    LoRATiles,
    LoRAWork,
    PackedProjection,
    PairPlacement,
)

PAGE = 32
NUM_PAGES = 40
LLAMA_8B = [
    (4096, 4096), (4096, 1024), (4096, 1024), (4096, 4096),
    (4096, 14336), (4096, 14336), (14336, 4096),
] * 32  # fmt: skip


class ArenaMachine(RuleBasedStateMachine):
    """Adapters come and go; the books must always agree with a map of every element."""

    def __init__(self) -> None:
        super().__init__()
        self.arena = Arena(NUM_PAGES * PAGE + PAGE // 2, PAGE)
        self.taken: list[tuple[Allocation, list[int]]] = []

    @rule(sizes=st.lists(st.integers(0, 9 * PAGE), min_size=1, max_size=6))
    def place(self, sizes: list[int]) -> None:
        before = (self.arena.free_pages, self.arena.num_holes)
        allocation = self.arena.allocate_matrices(sizes)
        if allocation is not None:
            self.taken.append((allocation, sizes))
            return
        assert (self.arena.free_pages, self.arena.num_holes) == before
        # Every hole but those too small for the largest matrix has been used.
        room = before[0] * PAGE - before[1] * (max(sizes) + GRANULE)
        assert sum(sizes) + GRANULE * len(sizes) > room

    @rule(which=st.integers(0, 99))
    def free(self, which: int) -> None:
        if self.taken:
            allocation, _ = self.taken.pop(which % len(self.taken))
            self.arena.free(allocation)

    @invariant()
    def nothing_overlaps(self) -> None:
        owner: dict[int, int] = {}
        for index, (allocation, sizes) in enumerate(self.taken):
            pages = {p for e in allocation.extents for p in range(e.start, e.end)}
            assert all(owner.setdefault(page, index) == index for page in pages)
            elements: Counter[int] = Counter()
            for offset, size in zip(allocation.offsets, sizes, strict=True):
                assert offset % GRANULE == 0
                elements.update(range(offset, offset + size))
            assert all(count == 1 for count in elements.values())
            assert {element // PAGE for element in elements} <= pages
        assert self.arena.free_pages == NUM_PAGES - len(owner)

    @invariant()
    def one_range_where_there_is_room(self) -> None:
        for allocation, sizes in self.taken:
            if len(sizes) == 1:
                assert len(allocation.extents) <= 1

    def teardown(self) -> None:
        for allocation, _ in self.taken:
            self.arena.free(allocation)
        assert (self.arena.free_pages, self.arena.num_holes) == (NUM_PAGES, 1)


ArenaMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
test_arena_keeps_its_books = ArenaMachine.TestCase


def test_a_full_arena_refuses_and_keeps_what_it_has():
    arena = Arena(4 * PAGE, PAGE)
    held = [arena.allocate(PAGE) for _ in range(4)]
    assert None not in held
    assert arena.allocate(1) is None
    arena.free(held[1])
    arena.free(held[3])
    assert arena.allocate(PAGE + 1) is None, "a matrix lies in one piece"
    spread = arena.allocate_matrices([PAGE, PAGE])
    assert spread is not None
    assert spread.offsets == (PAGE, 3 * PAGE)


def test_pages_are_freed_once():
    arena = Arena(8 * PAGE, PAGE)
    first, second = arena.allocate(2 * PAGE), arena.allocate(PAGE)
    arena.free(first)
    with pytest.raises(ValueError, match="pages 0 to 2 of the arena are not taken"):
        arena.free(first)
    arena.free(second)
    with pytest.raises(ValueError, match="pages 2 to 3"):
        arena.free(second)


def test_pages_keep_matrices_aligned():
    with pytest.raises(ValueError, match="give 16"):
        Arena(1000, 24)


@pytest.mark.parametrize("rank", [1, 3, 8, 16, 256])
def test_an_adapter_costs_its_own_bytes(rank):
    """All seven layers of Llama 3.1 8B in bfloat16: never above 1.05, whatever others may have."""
    page = PAGE_BYTES // 2
    sizes = [rank * width for site in LLAMA_8B for width in site]
    arena = Arena(sum(sizes) + page, page)
    before = arena.free_pages
    assert arena.allocate_matrices(sizes) is not None
    assert (before - arena.free_pages) * page <= 1.05 * sum(sizes)


def table_of(max_ranks: list[int]) -> AdapterTable:
    table = AdapterTable(torch.zeros(64), len(max_ranks), 2)
    for slot, rank in enumerate(max_ranks):
        table.put(slot, {0: PairPlacement(0, 16, rank, 1.0), 1: PairPlacement(0, 0, rank // 2, 1)})
    return table


def test_the_table_says_what_kernels_need():
    table = AdapterTable(torch.arange(64.0), 2, 3)
    table.put(1, {2: PairPlacement(16, 32, 2, 0.1)})
    record = table.records[1, 2]
    assert record[:3].tolist() == [16 // GRANULE, 32 // GRANULE, 2]
    assert record[3:].view(torch.float32).item() == torch.tensor(0.1).item()
    assert not table.records[0].any()
    assert not table.records[1, :2].any()
    a, b, scaling = table.pair(1, 2, 3, 5)
    assert (a[0, 0], a.shape, b[0, 0], b.shape, scaling) == (16, (2, 3), 32, (2, 5), 0.1)
    assert table.pair(1, 0, 3, 5) is None
    table.clear(1)
    assert not table.records.any()
    assert table.max_rank(1) == 0


def test_matrices_must_be_aligned():
    table = AdapterTable(torch.zeros(64), 1, 2)
    with pytest.raises(ValueError, match="site 1 lie at elements 8 and 16"):
        table.put(0, {1: PairPlacement(8, 16, 1, 1.0)})


@st.composite
def steps(draw: st.DrawFn) -> tuple[list[int], list[int | None]]:
    """Ranks of some slots and, for each row, its slot or None."""
    ranks = draw(st.lists(st.integers(0, 40), min_size=1, max_size=6))
    slot = st.none() | st.integers(0, len(ranks) - 1)
    return ranks, draw(st.lists(slot, max_size=70))


@settings(deadline=None, max_examples=150)
@given(st.lists(steps(), min_size=1, max_size=3), st.sampled_from([DECODE, PREFILL]))
def test_the_work_list_covers_each_row_and_component_once(several, tiles: LoRATiles):
    """Also when it is filled again and again, with what an earlier step left behind it."""
    ranks = [max(row) for row in zip(*(ranks + [0] * 6 for ranks, _ in several), strict=False)]
    table = table_of(ranks)
    work = LoRAWork(table, tiles, 70, 40, 2)
    for _, slot_of_row in several:
        rows_of = {slot: [r for r, s in enumerate(slot_of_row) if s == slot] for slot in range(6)}
        segments = [(slot, rows) for slot, rows in rows_of.items() if rows and slot < len(ranks)]
        work.fill(segments)
        check_cover(work, {slot: rows for slot, rows in segments if ranks[slot]}, ranks)


def check_cover(work: LoRAWork, rows_of: dict[int, list[int]], ranks: list[int]) -> None:
    num_row_tiles, num_tiles = work.counts[:2].tolist()
    size = work.shape.fused.rows
    covered: Counter[tuple[int, int, int]] = Counter()
    for index, (slot, first, count, rank_tile) in enumerate(work.tiles[:num_tiles].tolist()):
        assert 0 < count <= work.shape.rows
        assert (rank_tile == 0) == (index < num_row_tiles)
        for row in work.tile_rows.flatten()[first * size : first * size + count].tolist():
            assert work.site_records[first].equal(work.table.records[slot])
            covered[slot, row, rank_tile] += 1
    assert covered == Counter(
        (slot, row, tile)
        for slot, rows in rows_of.items()
        for row in rows
        for tile in range(-(-ranks[slot] // work.shape.rank))
    )
    assert work.is_empty == (not rows_of)


@pytest.mark.parametrize("tiles", [DECODE, PREFILL])
def test_the_largest_step_fits(tiles):
    table = table_of([40] * 9)
    work = LoRAWork(table, tiles, 70, 40, 2)
    work.fill([(slot, range(slot * 7, slot * 7 + 7)) for slot in range(9)])
    work.fill([(0, range(62)), *((slot, [61 + slot]) for slot in range(1, 9))])
    assert work.tiles.shape[0] >= work.counts[1]


def test_steps_that_do_not_fit_are_refused():
    work = LoRAWork(table_of([40, 50]), DECODE, 8, 40, 2)
    with pytest.raises(ValueError, match="the step has 9 rows, but this work list holds 8"):
        work.fill([(0, range(9))])
    with pytest.raises(ValueError, match="slot 1 has rank 50"):
        work.fill([(1, [0])])


@settings(deadline=None)
@given(
    st.integers(1, 40_000),
    st.sampled_from([64, 128, 256]),
    st.integers(1, 16),
    st.integers(1, 4),
)
def test_splits_cover_every_feature_once(in_features, features, max_splits, steps_per_split):
    shape = replace(
        DECODE.shrink,
        features=features, max_splits=max_splits, split_features=steps_per_split * features,
    )  # fmt: skip
    width, splits = shape.split(in_features, 1)
    assert width % features == 0
    assert 1 <= splits <= max_splits
    assert (splits - 1) * width < in_features <= splits * width


@given(st.lists(st.integers(1, 200), min_size=1, max_size=5), st.sampled_from([32, 64]))
def test_blocks_cover_every_column_once(widths, columns):
    projection = PackedProjection(3, 16, widths, torch.device("cpu"))
    covered: Counter[int] = Counter()
    for slice_index, block, units, units_before in projection.blocks(columns).tolist():
        width, start = units * projection.unit, units_before * projection.unit
        assert (width, start) == (widths[slice_index], sum(widths[:slice_index]))
        stop = min(width, (block + 1) * columns)
        covered.update(range(start + block * columns, start + stop))
    assert covered == Counter(range(sum(widths)))
