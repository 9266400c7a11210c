"""A file read, hashed and looked through in pieces, each by one thread while it is in its cache."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from blake3 import blake3

from loramux.lora.checkpoint.finite import Bytes
from loramux.lora.checkpoint.host_buffer import Allocate, host_buffer
from loramux.lora.checkpoint.read_threads import shared_out

PIECE_BYTES = 2**21
"""Part of the digest's definition. A multiple of a large page, so that each is touched by one
thread. Small enough that threads share the 40 of an adapter of 84 MB evenly; large enough that a
thread, which asks for Python's lock four times a piece, seldom waits for others."""


class FileShortenedError(Exception):
    """The file ended before the bytes it had when it was opened."""


@dataclass(frozen=True, eq=False)
class Pieces:
    """The content of a part of a file.

    Args:
        content: the bytes.
        hashes: BLAKE3 of each ``PIECE_BYTES`` of them, one after another; the last may be less.
        suspicious: positions of the pieces that ``inspect`` said yes to.
    """

    content: Bytes
    hashes: bytes
    suspicious: frozenset[int]

    def is_suspicious(self, start: int, end: int) -> bool:
        """Whether any of the bytes from ``start`` to before ``end`` are in a suspicious piece."""
        positions = range(start // PIECE_BYTES, -(-end // PIECE_BYTES))
        return not self.suspicious.isdisjoint(positions)


@contextmanager
def reading_pieces(
    descriptor: int,
    origin: int,
    size: int,
    inspect: Callable[[Bytes, int], bool],
    allocate: Allocate = host_buffer,
) -> Iterator[Callable[[], Pieces]]:
    """Begin to read ``size`` bytes of a file from ``origin`` on, every byte once.

    Yields a function that helps to read and returns when all is done. What it returns is what was
    hashed and inspected, whatever happens to the file meanwhile.

    Args:
        inspect: called on several threads with a piece and its offset from ``origin``.
        allocate: gives the memory to read into.

    The function raises:
        FileShortenedError: if the file ends before.
        OSError: if reading fails.
    """
    content = allocate(size)
    hashes = [b""] * -(-size // PIECE_BYTES)
    suspicious: list[int] = []

    def read(position: int) -> None:
        start = position * PIECE_BYTES
        piece = content[start : start + PIECE_BYTES]
        _fill(piece, descriptor, origin + start)
        hashes[position] = blake3(piece.data).digest()
        if inspect(piece, start):
            suspicious.append(position)

    with shared_out(len(hashes), read) as finish:

        def pieces() -> Pieces:
            finish()
            return Pieces(content, b"".join(hashes), frozenset(suspicious))

        yield pieces


def _fill(piece: Bytes, descriptor: int, offset: int) -> None:
    """A system call may bring less than was asked for without the file being at its end."""
    memory, done = piece.data, 0
    while done < len(memory):
        count = os.preadv(descriptor, [memory[done:]], offset + done)
        if count == 0:
            raise FileShortenedError
        done += count
