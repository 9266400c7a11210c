"""An adapter's matrices cut into pieces that fit the staging area, and gathered there."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from loramux_kernels.triton_lora.place import PLACE_FIELDS

ALIGNMENT = 16
"""Bytes; more than any element needs."""

DIRECT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""What the device casts from; the rest is rare and becomes float32 on the host."""


@dataclass(slots=True, eq=False)
class Move:
    """One matrix on the host and its place in the arena.

    Args:
        matrix: ``[rows, columns]``.
        first: element of the arena it begins at.
        transposed: whether it lies there as ``[columns, rows]``.
    """

    matrix: Tensor
    first: int
    transposed: bool


@dataclass(slots=True)
class Run:
    """Bytes that lie together on the host and will in the staging area."""

    address: int
    num_bytes: int
    position: int


class Fields(Protocol):
    """Integers of 64 bits, ``PLACE_FIELDS`` to a record."""

    def __len__(self) -> int: ...

    def tobytes(self) -> bytes: ...


@dataclass(slots=True, eq=False)
class _Part:
    """Rows of a matrix."""

    matrix: Tensor
    address: int
    num_bytes: int
    rows: int
    columns: int
    first: int
    stride: int


@dataclass
class Piece:
    """What crosses the bus at once: runs of bytes, and records that say where their matrices go.

    Positions count bytes from the start of the piece's data. ``matrices`` keeps the tensors whose
    addresses the runs name.
    """

    runs: list[Run] = field(default_factory=list)
    records: dict[torch.dtype, Fields] = field(default_factory=dict)
    matrices: list[Tensor] = field(default_factory=list)
    num_bytes: int = 0
    num_records: int = 0
    _next_address: int = -1

    def add(self, part: _Part) -> None:
        position = self.position_of(part)
        if part.address == self._next_address:
            self.runs[-1].num_bytes += part.num_bytes
        else:
            self.runs.append(Run(part.address, part.num_bytes, position))
        dtype = part.matrix.dtype
        fields = self.records.setdefault(dtype, array("q"))
        assert isinstance(fields, array), "who adds parts has begun without records"
        fields.extend(
            (position // dtype.itemsize, part.rows, part.columns, part.first, part.stride)
        )
        self.matrices.append(part.matrix)
        self.num_bytes = position + part.num_bytes
        self.num_records += 1
        self._next_address = part.address + part.num_bytes

    def position_of(self, part: _Part) -> int:
        """Where a part will lie: behind the last, aligned as it is on the host."""
        if part.address == self._next_address:
            return self.num_bytes
        return -(-self.num_bytes // ALIGNMENT) * ALIGNMENT + part.address % ALIGNMENT


def cut(moves: Iterable[Move], max_bytes: int, max_records: int) -> Iterator[Piece]:
    """Pieces of at most so many bytes and records, each as soon as its matrices are known.

    Raises:
        ValueError: one row of a matrix has more bytes than a piece.
    """
    piece = Piece()
    for move in moves:
        for part in _parts(move, max_bytes - 2 * ALIGNMENT):
            end = piece.position_of(part) + part.num_bytes
            if end > max_bytes or piece.num_records == max_records:
                yield piece
                piece = Piece()
            piece.add(part)
    if piece.num_records:
        yield piece


def _parts(move: Move, max_bytes: int) -> Iterator[_Part]:
    """The matrix, in as few parts as have to be."""
    matrix = _plain(move.matrix)
    rows, columns = matrix.shape if move.transposed else (matrix.numel(), 1)
    row_bytes = columns * matrix.itemsize
    step = max_bytes // row_bytes if row_bytes else max(rows, 1)
    if not step:
        raise ValueError(
            f"a row of {columns} values of {matrix.dtype} is larger than a piece of {max_bytes} "
            "bytes: make the staging area larger."
        )
    stride = rows if move.transposed else 0
    address = matrix.data_ptr()
    for start in range(0, rows, step):
        count = min(step, rows - start)
        size = count * row_bytes
        yield _Part(matrix, address, size, count, columns, move.first + start, stride)
        address += size


def _plain(matrix: Tensor) -> Tensor:
    """The same values, contiguous, aligned and of a type that the device casts from."""
    if matrix.dtype not in DIRECT_DTYPES:
        matrix = matrix.float()
    matrix = matrix.contiguous()
    return matrix.clone() if matrix.data_ptr() % matrix.itemsize else matrix


def gather(runs: Iterable[Run], address: int) -> None:
    """Copy runs to a staging area's data at an address; other Python threads run meanwhile."""
    for run in runs:
        ctypes.memmove(address + run.position, run.address, run.num_bytes)


def split_runs(runs: Iterable[Run], max_bytes: int) -> Iterator[list[Run]]:
    """The runs in groups of about ``max_bytes``, long ones cut, for several threads."""
    group: list[Run] = []
    room = max_bytes
    for run in runs:
        done = 0
        while done < run.num_bytes:
            count = min(room, run.num_bytes - done)
            group.append(Run(run.address + done, count, run.position + done))
            done += count
            room -= count
            if not room:
                yield group
                group, room = [], max_bytes
    if group:
        yield group


def record_rows(piece: Piece) -> Iterator[tuple[torch.dtype, int, int]]:
    """Source types and the first and last record of each, in the order they are sent."""
    start = 0
    for dtype, fields in piece.records.items():
        count = len(fields) // PLACE_FIELDS
        yield dtype, start, start + count
        start += count
