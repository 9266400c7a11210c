"""LoRA updates of a mixed batch, held to float64 row by row and to the last bit of other rows."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from loramux_kernels.lora import (
    RowGroups,
    RowRectangle,
    RowSegment,
    add_grouped_embedding_lora_,
    add_grouped_lora_,
    add_segment_embedding_lora_,
    add_segment_lora_,
)

VOCABULARY = 11
AWKWARD = [-0.0, 0.0, float("inf"), float("-inf"), float("nan"), 1e-45, -3.4e38]
"""Values that an addition of +0.0, or of a stranger's result, would change."""


@dataclass
class Pair:
    """One adapter's update of a layer, at its true rank."""

    a: Tensor
    b: Tensor
    scaling: float

    def update(self, x: Tensor) -> Tensor:
        return self.scaling * (x.double() @ self.a.double()) @ self.b.double()

    def looked_up(self, ids: Tensor) -> Tensor:
        return self.scaling * self.a.double()[ids] @ self.b.double()


def make_pair(rank: int, in_features: int, out_features: int) -> Pair:
    a, b = torch.randn(in_features, rank), torch.randn(rank, out_features)
    return Pair(a, b, 0.25 + torch.rand(()).item())


def stack(pairs: list[Pair]) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of several ranks as the three stacked tensors, padded with zeros."""
    rank = max(pair.a.shape[1] for pair in pairs)
    a = torch.zeros(len(pairs), pairs[0].a.shape[0], rank)
    b = torch.zeros(len(pairs), rank, pairs[0].b.shape[1])
    for slot, pair in enumerate(pairs):
        a[slot, :, : pair.a.shape[1]] = pair.a
        b[slot, : pair.b.shape[0]] = pair.b
    return a, b, torch.tensor([pair.scaling for pair in pairs]).view(-1, 1, 1)


def group(slot_of_row: list[int | None], slots: int) -> RowGroups:
    """Cells for rows that name their slot; padding computes the last row that exists."""
    rows_of = [[r for r, s in enumerate(slot_of_row) if s == slot] for slot in range(slots)]
    width = max([1, *map(len, rows_of)])
    cells = [len(slot_of_row) - 1] * (slots * width)
    cell_of_row = [slots * width] * len(slot_of_row)
    for slot, rows in enumerate(rows_of):
        for place, row in enumerate(rows):
            cells[slot * width + place] = row
            cell_of_row[row] = slot * width + place
    return RowGroups(torch.tensor(cells), torch.tensor(cell_of_row), slots, width)


def bits(rows: Tensor) -> Tensor:
    """Told apart to the last bit: ``torch.equal`` takes -0.0 for 0.0, and NaN for different."""
    return rows.view(torch.int32)


def rows_without(slot_of_row: list[int | None]) -> list[int]:
    return [row for row, slot in enumerate(slot_of_row) if slot is None]


def check(y: Tensor, before: Tensor, slot_of_row: list[int | None], updates: list[Tensor]) -> None:
    """Every row got its own adapter's update in float64, or not a bit."""
    for row, slot in enumerate(slot_of_row):
        if slot is None:
            assert torch.equal(bits(y[row]), bits(before[row]))
        else:
            expected = before[row].double() + updates[slot][row]
            torch.testing.assert_close(y[row].double(), expected, atol=2e-4, rtol=2e-5)


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[int], list[int | None]]:
    """Ranks of some slots and, for each row, its slot or None; slots may have no rows."""
    ranks = draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    slot = st.none() | st.integers(0, len(ranks) - 1)
    return ranks, draw(st.lists(slot, min_size=1, max_size=17))


@settings(deadline=None, max_examples=60)
@given(batches(), st.integers(1, 19), st.integers(1, 23), st.integers(0, 2**31))
def test_grouped_rows_get_their_own_update(batch, in_features, out_features, seed):
    ranks, slot_of_row = batch
    torch.manual_seed(seed)
    pairs = [make_pair(rank, in_features, out_features) for rank in ranks]
    x, y = torch.randn(len(slot_of_row), in_features), torch.randn(len(slot_of_row), out_features)
    before = y.clone()
    add_grouped_lora_(y, x, group(slot_of_row, len(pairs)), *stack(pairs))
    check(y, before, slot_of_row, [pair.update(x) for pair in pairs])


@settings(deadline=None, max_examples=60)
@given(batches(), st.integers(1, 23), st.integers(0, 2**31))
def test_grouped_embedding_rows_get_their_own_update(batch, out_features, seed):
    ranks, slot_of_row = batch
    torch.manual_seed(seed)
    pairs = [make_pair(rank, VOCABULARY, out_features) for rank in ranks]
    ids = torch.randint(VOCABULARY, (len(slot_of_row),))
    y = torch.randn(len(slot_of_row), out_features)
    before = y.clone()
    add_grouped_embedding_lora_(y, ids, group(slot_of_row, len(pairs)), *stack(pairs))
    check(y, before, slot_of_row, [pair.looked_up(ids) for pair in pairs])


@st.composite
def rectangles(draw: st.DrawFn) -> tuple[list[int], RowRectangle, list[int | None]]:
    """Ranks of some slots, a rectangle over some of them, and the slot of every row."""
    ranks = draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    first = draw(st.integers(0, len(ranks) - 1))
    slots = draw(st.integers(1, len(ranks) - first))
    start, width, end = (draw(st.integers(low, 4)) for low in (0, 1, 0))
    inside = [first + place for place in range(slots) for _ in range(width)]
    return ranks, RowRectangle(start, first, slots, width), [None] * start + inside + [None] * end


@settings(deadline=None, max_examples=60)
@given(rectangles(), st.integers(1, 19), st.integers(1, 23), st.integers(0, 2**31))
def test_rectangles_get_their_own_updates(case, in_features, out_features, seed):
    ranks, rectangle, slot_of_row = case
    torch.manual_seed(seed)
    pairs = [make_pair(rank, in_features, out_features) for rank in ranks]
    x, y = torch.randn(len(slot_of_row), in_features), torch.randn(len(slot_of_row), out_features)
    before = y.clone()
    add_grouped_lora_(y, x, rectangle, *stack(pairs))
    check(y, before, slot_of_row, [pair.update(x) for pair in pairs])

    lookups = [make_pair(rank, VOCABULARY, out_features) for rank in ranks]
    ids, y = torch.randint(VOCABULARY, (len(slot_of_row),)), before.clone()
    add_grouped_embedding_lora_(y, ids, rectangle, *stack(lookups))
    check(y, before, slot_of_row, [pair.looked_up(ids) for pair in lookups])


rectangles = st.builds(
    RowRectangle,
    start=st.integers(0, 4),
    first_slot=st.integers(0, 2),
    slots=st.integers(1, 4),
    width=st.integers(1, 5),
)


def rows_of(rectangle: RowRectangle, rows_after: int) -> list[int | None]:
    """The slot of each row, with rows of no adapter before and after the rectangle."""
    slots = range(rectangle.first_slot, rectangle.first_slot + rectangle.slots)
    inside = [slot for slot in slots for _ in range(rectangle.width)]
    return [None] * rectangle.start + inside + [None] * rows_after


@settings(deadline=None, max_examples=60)
@given(rectangles, st.integers(0, 3), st.lists(st.integers(1, 9), min_size=6, max_size=7))
def test_a_rectangle_of_rows_gets_its_updates(rectangle, rows_after, ranks):
    torch.manual_seed(rectangle.width)
    slot_of_row = rows_of(rectangle, rows_after)
    pairs = [make_pair(rank, 13, 9) for rank in ranks]
    x, y = torch.randn(len(slot_of_row), 13), torch.randn(len(slot_of_row), 9)
    before = y.clone()
    add_grouped_lora_(y, x, rectangle, *stack(pairs))
    check(y, before, slot_of_row, [pair.update(x) for pair in pairs])


@settings(deadline=None, max_examples=60)
@given(rectangles, st.integers(0, 3), st.lists(st.integers(1, 9), min_size=6, max_size=7))
def test_a_rectangle_of_embedding_rows_gets_its_updates(rectangle, rows_after, ranks):
    torch.manual_seed(rectangle.width)
    slot_of_row = rows_of(rectangle, rows_after)
    pairs = [make_pair(rank, VOCABULARY, 9) for rank in ranks]
    ids, y = torch.randint(VOCABULARY, (len(slot_of_row),)), torch.randn(len(slot_of_row), 9)
    before = y.clone()
    add_grouped_embedding_lora_(y, ids, rectangle, *stack(pairs))
    check(y, before, slot_of_row, [pair.looked_up(ids) for pair in pairs])


def segments(rows: list[int]) -> list[RowSegment]:
    """All forms in which a segment may name these rows."""
    by_index = RowSegment(torch.tensor(rows))
    if rows == list(range(rows[0], rows[-1] + 1)):
        return [by_index, RowSegment(slice(rows[0], rows[-1] + 1))]
    return [by_index]


@pytest.mark.parametrize("rank", [1, 3, 8, 65, 130])
@pytest.mark.parametrize("rows", [[0], [5], [2, 3, 4], [6, 0, 3], list(range(7))])
def test_segment_rows_get_their_update(rank, rows):
    torch.manual_seed(rank)
    pair = make_pair(rank, 13, 9)
    slot_of_row = [0 if row in rows else None for row in range(7)]
    x, before = torch.randn(7, 13), torch.randn(7, 9)
    for segment in segments(rows):
        y = before.clone()
        add_segment_lora_(y, x, segment, pair.a, pair.b, pair.scaling)
        check(y, before, slot_of_row, [pair.update(x)])


@pytest.mark.parametrize("rows", [[0], [2, 3, 4], [6, 0, 3]])
def test_segment_embedding_rows_get_their_update(rows):
    torch.manual_seed(3)
    pair = make_pair(5, VOCABULARY, 9)
    slot_of_row = [0 if row in rows else None for row in range(7)]
    ids, before = torch.randint(VOCABULARY, (7,)), torch.randn(7, 9)
    for segment in segments(rows):
        y = before.clone()
        add_segment_embedding_lora_(y, ids, segment, pair.a, pair.b, pair.scaling)
        check(y, before, slot_of_row, [pair.looked_up(ids)])


def awkward_rows(count: int, width: int) -> Tensor:
    values = torch.tensor(AWKWARD)
    return values[torch.arange(count * width).view(count, width) % len(values)].clone()


def broken_pairs(in_features: int) -> list[Pair]:
    """An adapter of NaN, one of infinities, and one whose finite weights overflow."""
    values = (float("nan"), float("inf"), 3e38)
    return [
        Pair(torch.full((in_features, 4), value), torch.full((4, 7), value), 2.0)
        for value in values
    ]


@pytest.mark.parametrize("value", [1.0, float("nan"), float("inf"), 3e38])
def test_rows_of_no_adapter_keep_every_bit_beside_broken_ones(value):
    """``value`` stands in the rows of the broken adapters."""
    pairs = broken_pairs(6)
    slot_of_row = [None, 0, None, 1, 2, 2, None]
    x = torch.full((7, 6), value)
    before = awkward_rows(7, 7)
    y = before.clone()
    add_grouped_lora_(y, x, group(slot_of_row, 3), *stack(pairs))
    untouched = rows_without(slot_of_row)
    assert torch.equal(bits(y[untouched]), bits(before[untouched]))
    assert not torch.equal(bits(y), bits(before)), "the broken adapters must have been applied"


def test_rows_around_a_rectangle_of_broken_adapters_keep_every_bit():
    before = awkward_rows(9, 7)
    y = before.clone()
    rectangle = RowRectangle(start=2, first_slot=0, slots=3, width=2)
    add_grouped_lora_(y, torch.ones(9, 6), rectangle, *stack(broken_pairs(6)))
    assert torch.equal(bits(y[[0, 1, 8]]), bits(before[[0, 1, 8]]))
    assert not y[2:8].isfinite().any()


def test_embedding_rows_of_no_adapter_keep_every_bit_beside_broken_ones():
    pairs = broken_pairs(VOCABULARY)
    slot_of_row = [0, None, 1, None, 2]
    before = awkward_rows(5, 7)
    y = before.clone()
    add_grouped_embedding_lora_(y, torch.arange(5), group(slot_of_row, 3), *stack(pairs))
    untouched = rows_without(slot_of_row)
    assert torch.equal(bits(y[untouched]), bits(before[untouched]))
    assert not torch.equal(bits(y), bits(before)), "the broken adapters must have been applied"


@pytest.mark.parametrize("rows", [[1, 2], [0, 3]])
def test_other_rows_keep_every_bit_beside_a_broken_segment(rows):
    others = [row for row in range(5) if row not in rows]
    before = awkward_rows(5, 7)
    for pair in broken_pairs(6):
        for segment in segments(rows):
            y = before.clone()
            add_segment_lora_(y, torch.ones(5, 6), segment, pair.a, pair.b, pair.scaling)
            assert torch.equal(bits(y[others]), bits(before[others]))
            assert not y[rows].isfinite().any()


def test_a_sound_adapter_is_exact_beside_broken_ones():
    torch.manual_seed(5)
    sound = make_pair(3, 6, 7)
    slot_of_row = [3, 0, 3, 1, 2, None]
    x, before = torch.randn(6, 6), torch.randn(6, 7)
    x[[1, 3, 4]] = float("inf")
    y = before.clone()
    add_grouped_lora_(y, x, group(slot_of_row, 4), *stack([*broken_pairs(6), sound]))
    expected = before.double() + sound.update(x)
    torch.testing.assert_close(y[[0, 2]].double(), expected[[0, 2]], atol=1e-5, rtol=1e-5)
