"""Which rows of a batch belong to which adapter, arranged for the kernels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from loramux.lora.device.resident import ResidentAdapter
from loramux.lora.device.stack import AdapterStack
from loramux_kernels.lora import RowGroups, RowRectangle, RowSegment

MAX_GROUPED_RANK = 64
"""Wider adapters are computed alone: padding the others to them would cost more."""


@dataclass(frozen=True, eq=False)
class RowSpan:
    """Successive rows of one adapter."""

    adapter: ResidentAdapter
    start: int
    stop: int


@dataclass(eq=False)
class AdapterRows:
    """All rows of one adapter in the batch."""

    adapter: ResidentAdapter
    spans: list[RowSpan] = field(default_factory=list)

    @property
    def count(self) -> int:
        return sum(span.stop - span.start for span in self.spans)

    @property
    def first(self) -> int:
        return self.spans[0].start

    @property
    def end(self) -> int:
        return self.spans[-1].stop

    @property
    def rows(self) -> list[int]:
        return [row for span in self.spans for row in range(span.start, span.stop)]


@dataclass(frozen=True, eq=False)
class AdapterSegment:
    """Rows of one adapter that are computed on their own."""

    adapter: ResidentAdapter
    rows: RowSegment


@dataclass(frozen=True, eq=False)
class LoRAPlan:
    """How one step applies its adapters: small ones together, large ones one by one."""

    groups: RowGroups | RowRectangle | None
    segments: list[AdapterSegment]


def can_be_grouped(adapter: ResidentAdapter) -> bool:
    """Whether the adapter may share padded products, and so needs a slot in the stack."""
    return adapter.adapter.max_rank <= MAX_GROUPED_RANK


def plan_rows(
    spans: Iterable[RowSpan], num_rows: int, stack: AdapterStack, device: torch.device
) -> LoRAPlan | None:
    """Arrange rows of a batch whose adapters have their slots; None if no row has an adapter."""
    all_rows = _rows_by_adapter(spans)
    if not all_rows:
        return None
    grouped, single = _split(all_rows)
    groups: RowGroups | RowRectangle | None = _rectangle(grouped, stack)
    if groups is None and grouped:
        groups = _groups(grouped, num_rows, stack, device)
    return LoRAPlan(groups, [_segment(rows, device) for rows in single])


def plan_segments(spans: Iterable[RowSpan], device: torch.device) -> list[AdapterSegment]:
    """The rows of each adapter, to be computed on their own."""
    return [_segment(rows, device) for rows in _rows_by_adapter(spans)]


def _rows_by_adapter(spans: Iterable[RowSpan]) -> list[AdapterRows]:
    adapters: dict[ResidentAdapter, AdapterRows] = {}
    for span in spans:
        adapters.setdefault(span.adapter, AdapterRows(span.adapter)).spans.append(span)
    return list(adapters.values())


def _split(all_rows: list[AdapterRows]) -> tuple[list[AdapterRows], list[AdapterRows]]:
    """Those that fit one padded rectangle without wasting half of it, and the others."""
    single = [rows for rows in all_rows if not can_be_grouped(rows.adapter)]
    grouped = [rows for rows in all_rows if can_be_grouped(rows.adapter)]
    grouped.sort(key=lambda rows: rows.count)
    total = sum(rows.count for rows in grouped)
    while grouped and len(grouped) * grouped[-1].count > 2 * total:
        largest = grouped.pop()
        total -= largest.count
        single.append(largest)
    if len(grouped) == 1:
        single.append(grouped.pop())
    return grouped, single


def _segment(rows: AdapterRows, device: torch.device) -> AdapterSegment:
    if rows.end - rows.first == rows.count:
        return AdapterSegment(rows.adapter, RowSegment(slice(rows.first, rows.end)))
    return AdapterSegment(rows.adapter, RowSegment(torch.tensor(rows.rows, device=device)))


def _rectangle(grouped: list[AdapterRows], stack: AdapterStack) -> RowRectangle | None:
    """The rows as one block in the order of slots, None if they do not lie like that."""
    if not grouped:
        return None
    by_slot = sorted(grouped, key=lambda rows: stack.slot_of(rows.adapter))
    first_slot = stack.slot_of(by_slot[0].adapter)
    start, width = by_slot[0].first, by_slot[0].count
    for place, rows in enumerate(by_slot):
        first = start + place * width
        lies_there = (rows.first, rows.end, rows.count) == (first, first + width, width)
        if not lies_there or stack.slot_of(rows.adapter) != first_slot + place:
            return None
    return RowRectangle(start, first_slot, len(by_slot), width)


def _groups(
    grouped: list[AdapterRows], num_rows: int, stack: AdapterStack, device: torch.device
) -> RowGroups:
    width = max(rows.count for rows in grouped)
    num_cells = len(stack) * width
    cells = [0] * num_cells
    cell_of_row = [num_cells] * num_rows
    for rows in grouped:
        for cell, row in enumerate(rows.rows, start=stack.slot_of(rows.adapter) * width):
            cells[cell] = row
            cell_of_row[row] = cell
    return RowGroups(
        rows=torch.tensor(cells, device=device),
        cell_of_row=torch.tensor(cell_of_row, device=device),
        slots=len(stack),
        width=width,
    )
