"""Finding infinities and NaNs by the bits of numbers, at the speed of memory and without a copy."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, takewhile
from operator import attrgetter
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from loramux.lora.checkpoint.safetensors_header import TensorEntry

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _Layout:
    """A type's numbers as integers of its width.

    Without the sign, infinities and NaNs are the integers from ``infinity`` upwards. With it, the
    positive ones are the greatest signed and the negative ones the greatest unsigned integers.
    """

    signed: type[np.signedinteger[Any]]
    unsigned: type[np.unsignedinteger[Any]]
    infinity: int

    @property
    def minus_infinity(self) -> int:
        return self.infinity | 1 << 8 * np.dtype(self.unsigned).itemsize - 1


_LAYOUTS = {
    torch.float16: _Layout(np.int16, np.uint16, 0x7C00),
    torch.bfloat16: _Layout(np.int16, np.uint16, 0x7F80),
    torch.float32: _Layout(np.int32, np.uint32, 0x7F80_0000),
    torch.float64: _Layout(np.int64, np.uint64, 0x7FF0_0000_0000_0000),
}


def holds_non_finite(content: Bytes, dtype: torch.dtype) -> bool:
    """Whether numbers of a type, given as their bytes, are not all finite.

    Two reductions that hold neither Python's lock nor a second copy, and need no other thread.
    """
    layout = _LAYOUTS[dtype]
    return content.size > 0 and bool(
        content.view(layout.signed).max() >= layout.infinity
        or content.view(layout.unsigned).max() >= layout.minus_infinity
    )


@dataclass(frozen=True)
class _Run:
    """Neighbouring tensors of one type; ``start`` and ``end`` are offsets in bytes."""

    dtype: torch.dtype
    start: int
    end: int


@dataclass(frozen=True)
class FloatRuns:
    """Which bytes of a file are numbers of which type, whatever tensors they belong to."""

    runs: tuple[_Run, ...]
    is_aligned: bool

    @classmethod
    def of(cls, entries: Iterable[TensorEntry], origin: int) -> Self:
        """The runs of tensors that follow one another without gaps, counted from ``origin``."""
        runs = []
        for dtype, group in groupby(entries, key=attrgetter("dtype")):
            members = list(group)
            runs.append(_Run(dtype, members[0].start - origin, members[-1].end - origin))
        return cls(tuple(runs), all(run.start % run.dtype.itemsize == 0 for run in runs))

    def may_hold_non_finite(self, content: Bytes, start: int) -> bool:
        """Whether to look closer at a part of the file that begins at ``start``.

        A part begins and ends at multiples of the widest type, so it cuts no number of an aligned
        run. Where tensors are not aligned, everything deserves a closer look.
        """
        if not self.is_aligned:
            return True
        return any(
            holds_non_finite(content[max(run.start - start, 0) : run.end - start], run.dtype)
            for run in self._within(start, start + content.size)
        )

    def _within(self, start: int, end: int) -> Iterator[_Run]:
        """The runs of which some bytes are between two offsets."""
        first = bisect_right(self.runs, start, key=lambda run: run.end)
        return takewhile(
            lambda run: run.start < end, (self.runs[i] for i in range(first, len(self.runs)))
        )
