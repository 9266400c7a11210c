"""Every row of an adapter is computed once, with its own adapter, and no other row is."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loramux.lora.device.plan import LoRAPlan, RowSpan, can_be_grouped, plan_rows
from loramux.lora.device.resident import ResidentAdapter
from loramux.lora.device.stack import AdapterStack
from loramux_kernels.lora import RowRectangle
from tests.lora.residents import CPU, SITES, make_resident

WIDE = 4
"""Place of the adapter that is too wide to share a product."""
RESIDENTS = [make_resident(str(n), {"up": 65 if n == WIDE else 2 + n}) for n in range(5)]

spans = st.tuples(st.none() | st.integers(0, 4), st.integers(1, 12))
batches = st.lists(spans, max_size=12)


@dataclass
class Planned:
    """A plan, and what it was made from."""

    plan: LoRAPlan | None
    adapter_of: list[int | None]
    """The adapter of each row."""
    stack: AdapterStack


def plan(batch: list[tuple[int | None, int]]) -> Planned:
    """Plan a batch of ``(adapter, rows)``."""
    adapter_of: list[int | None] = []
    row_spans = []
    for number, count in batch:
        if number is not None:
            start = len(adapter_of)
            row_spans.append(RowSpan(RESIDENTS[number], start, start + count))
        adapter_of += [number] * count
    stack = AdapterStack(SITES, CPU, torch.float32)
    used = dict.fromkeys(span.adapter for span in row_spans)
    stack.assign([adapter for adapter in used if can_be_grouped(adapter)])
    return Planned(plan_rows(row_spans, len(adapter_of), stack, CPU), adapter_of, stack)


def grouped_rows(plan: LoRAPlan) -> dict[int, int]:
    """Row to slot, for the rows whose cells are read."""
    groups = plan.groups
    if groups is None:
        return {}
    if isinstance(groups, RowRectangle):
        cells = range(groups.slots * groups.width)
        return {groups.start + cell: groups.first_slot + cell // groups.width for cell in cells}
    neutral = groups.slots * groups.width
    assert groups.rows.shape == (neutral,)
    slots = {}
    for row, cell in enumerate(groups.cell_of_row.tolist()):
        if cell != neutral:
            assert groups.rows[cell] == row, "the cell that a row takes must compute that row"
            slots[row] = cell // groups.width
    return slots


def segment_rows(plan: LoRAPlan, num_rows: int) -> list[tuple[ResidentAdapter, list[int]]]:
    rows = torch.arange(num_rows)
    return [(s.adapter, rows[s.rows.rows].tolist()) for s in plan.segments]


@settings(deadline=None, max_examples=150)
@given(batches)
def test_each_row_is_computed_once_with_its_own_adapter(batch):
    planned = plan(batch)
    result, adapter_of = planned.plan, planned.adapter_of
    if all(number is None for number in adapter_of):
        assert result is None
        return
    grouped = grouped_rows(result)
    segments = segment_rows(result, len(adapter_of))
    times = Counter([*grouped, *(row for _, rows in segments for row in rows)])
    assert times == Counter(row for row, number in enumerate(adapter_of) if number is not None)
    for row, slot in grouped.items():
        assert slot == planned.stack.slot_of(RESIDENTS[adapter_of[row]])
        assert slot < len(planned.stack)
    for adapter, rows in segments:
        assert all(RESIDENTS[adapter_of[row]] is adapter for row in rows)


@settings(deadline=None, max_examples=100)
@given(batches)
def test_padding_never_outweighs_the_rows(batch):
    result = plan(batch).plan
    if result is None or result.groups is None:
        return
    rows_of = Counter(grouped_rows(result).values())
    assert len(rows_of) * result.groups.width <= 2 * sum(rows_of.values())


@given(batches)
def test_wide_adapters_are_computed_alone(batch):
    result = plan([*batch, (WIDE, 3)]).plan
    assert RESIDENTS[WIDE] in [segment.adapter for segment in result.segments]


def test_rows_that_lie_together_are_a_slice():
    result = plan([(None, 2), (0, 3), (None, 1)]).plan
    assert [segment.rows.rows for segment in result.segments] == [slice(2, 5)]


def test_rows_that_lie_apart_are_an_index():
    result = plan([(0, 2), (None, 2), (0, 1)]).plan
    assert result.segments[0].rows.rows.tolist() == [0, 1, 4]


def test_single_tokens_of_many_adapters_share_one_product():
    result = plan([(number, 1) for number in (0, 1, None, 2, 3)]).plan
    assert result.segments == []
    assert sorted(grouped_rows(result)) == [0, 1, 3, 4]


def test_a_long_prompt_does_not_pad_the_others():
    result = plan([(0, 1), (1, 1), (2, 300)]).plan
    assert [segment.adapter for segment in result.segments] == [RESIDENTS[2]]
    assert result.groups.width == 1


def test_equally_many_rows_in_the_order_of_slots_are_a_rectangle():
    result = plan([(0, 2), (1, 2), (2, 2), (None, 3)]).plan
    assert isinstance(result.groups, RowRectangle)
    assert (result.groups.start, result.groups.slots, result.groups.width) == (0, 3, 2)


def test_unequally_many_rows_are_no_rectangle():
    assert not isinstance(plan([(0, 2), (1, 1), (2, 2)]).plan.groups, RowRectangle)


def test_rows_out_of_the_order_of_slots_are_no_rectangle():
    assert not isinstance(plan([(0, 1), (None, 1), (1, 1)]).plan.groups, RowRectangle)
