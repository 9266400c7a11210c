"""Where in one preallocated stretch of device memory each adapter's matrices lie.

An adapter costs its true size and at most one page more for each range it is given, whatever
ranks the others have.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

GRANULE = 16
"""Elements; every matrix starts at a multiple, so that rows load in vectors of 16 bytes."""

PAGE_BYTES = 16 * 1024


@dataclass(frozen=True)
class Extent:
    """Successive pages."""

    start: int
    count: int

    @property
    def end(self) -> int:
        return self.start + self.count


@dataclass(frozen=True)
class Allocation:
    """Room for some matrices.

    Attributes:
        offsets: first element of each matrix, counted from the start of the arena.
        extents: the pages that hold them, one range where there was one large enough.
    """

    offsets: tuple[int, ...]
    extents: tuple[Extent, ...]


class Arena:
    """Pages of a flat tensor, given out first fit; freed neighbours become one hole again.

    Only keeps the books: no tensor, no device.

    Args:
        num_elements: size of the tensor; what does not fill a page is not used.
        page_elements: multiple of ``GRANULE``.
    """

    def __init__(self, num_elements: int, page_elements: int) -> None:
        if page_elements <= 0 or page_elements % GRANULE:
            raise ValueError(
                f"page_elements={page_elements} is no multiple of {GRANULE}: "
                f"give {max(GRANULE, page_elements // GRANULE * GRANULE)}."
            )
        self.page_elements = page_elements
        self.num_pages = num_elements // page_elements
        self._holes = [Extent(0, self.num_pages)] if self.num_pages else []

    @property
    def free_pages(self) -> int:
        return sum(hole.count for hole in self._holes)

    @property
    def num_holes(self) -> int:
        return len(self._holes)

    def pages_of(self, sizes: Sequence[int]) -> int:
        """Pages that these matrices take where one hole holds them all, the fewest possible."""
        return -(-sum(_aligned(sizes)) // self.page_elements)

    def allocate(self, num_elements: int) -> Allocation | None:
        """Room for one block, None if no hole holds it."""
        return self.allocate_matrices([num_elements])

    def allocate_matrices(self, sizes: Sequence[int]) -> Allocation | None:
        """Room for all these matrices, each in one piece, or None and nothing is taken.

        They lie together where one hole holds them all; otherwise each hole takes as many as fit,
        so that only holes smaller than a single matrix are ever lost to fragmentation.
        """
        lengths = _aligned(sizes)
        pages = -(-sum(lengths) // self.page_elements)
        for hole in self._holes:
            if hole.count >= pages:
                return self._take([hole], lengths)
        return self._take(self._holes, lengths)

    def would_fit(self, sizes: Sequence[int], freed: Iterable[Allocation]) -> bool:
        """Whether there is room for all these matrices once others have been freed."""
        trial = Arena(0, self.page_elements)
        trial._holes = self._holes.copy()
        for allocation in freed:
            trial.free(allocation)
        return trial.allocate_matrices(sizes) is not None

    def free(self, allocation: Allocation) -> None:
        """Give an allocation's pages back.

        Raises:
            ValueError: they are not taken, for instance because they were freed before.
        """
        for extent in allocation.extents:
            self._free(extent)

    def _take(self, holes: Sequence[Extent], lengths: Sequence[int]) -> Allocation | None:
        offsets: list[int] = []
        extents: list[Extent] = []
        for hole in holes:
            start = hole.start * self.page_elements
            position, end = start, hole.end * self.page_elements
            while len(offsets) < len(lengths) and position + lengths[len(offsets)] <= end:
                offsets.append(position)
                position += lengths[len(offsets) - 1]
            if position > start:
                extents.append(Extent(hole.start, -(-(position - start) // self.page_elements)))
        if len(offsets) < len(lengths):
            return None
        for extent in extents:
            self._occupy(extent)
        return Allocation(tuple(offsets), tuple(extents))

    def _occupy(self, extent: Extent) -> None:
        index = self._index_before(extent.start)
        hole = self._holes[index]
        rest = Extent(extent.end, hole.count - extent.count)
        self._holes[index : index + 1] = [rest] if rest.count else []

    def _free(self, extent: Extent) -> None:
        index = self._index_before(extent.start)
        before = self._holes[index : index + 1] if index >= 0 else []
        after = self._holes[index + 1 : index + 2]
        if (before and before[0].end > extent.start) or (after and after[0].start < extent.end):
            raise ValueError(
                f"pages {extent.start} to {extent.end} of the arena are not taken: "
                "free an allocation once."
            )
        first = max(index, 0)
        last = index + 1
        if before and before[0].end == extent.start:
            extent = Extent(before[0].start, before[0].count + extent.count)
        else:
            first = index + 1
        if after and after[0].start == extent.end:
            extent = Extent(extent.start, extent.count + after[0].count)
            last += 1
        self._holes[first:last] = [extent]

    def _index_before(self, page: int) -> int:
        """Index of the last hole that starts at or before a page, -1 if there is none."""
        return bisect(self._holes, page, key=lambda hole: hole.start) - 1


def _aligned(sizes: Sequence[int]) -> list[int]:
    return [-(-size // GRANULE) * GRANULE for size in sizes]
