"""Sequences that wait to run, in order of arrival for each adapter."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import takewhile

from loramux.engine.scheduling.sequence import Sequence
from loramux.lora.adapter import Adapter


class WaitingQueue:
    """First come, first served within an adapter; across adapters the scheduler chooses.

    Whoever was preempted stands before those who have not run yet, and is passed over for as long
    as it awaits the mask of its next token.

    Looking for the next sequence costs the number of adapters that wait, not of sequences: a
    crowd that waits for one adapter does not slow the others down.
    """

    def __init__(self) -> None:
        self._lines: dict[str | None, deque[Sequence]] = {}
        self.num_tokens = 0
        """Tokens of all who wait."""

    def push(self, sequence: Sequence) -> None:
        self._lines.setdefault(_line(sequence), deque()).append(sequence)
        self.num_tokens += sequence.num_tokens

    def push_front(self, sequence: Sequence) -> None:
        """Put a preempted sequence before all that came after it."""
        self._lines.setdefault(_line(sequence), deque()).appendleft(sequence)
        self.num_tokens += sequence.num_tokens

    def discard(self, sequence: Sequence) -> bool:
        """Remove a sequence if it waits; returns whether it did."""
        line = self._lines.get(_line(sequence))
        if line is None or sequence not in line:
            return False
        line.remove(sequence)
        self.num_tokens -= sequence.num_tokens
        if not line:
            del self._lines[_line(sequence)]
        return True

    def heads(self) -> list[Sequence]:
        """The first sequence of every line, oldest first."""
        firsts = filter(None, map(_first, self._lines.values()))
        return sorted(firsts, key=lambda s: s.arrival_time)

    def next_in_line(self, sequence: Sequence) -> Sequence | None:
        """Who is first in this sequence's line now."""
        return _first(self._lines.get(_line(sequence), ()))

    def suspended(self) -> Iterator[Sequence]:
        """Those that were preempted."""
        for line in self._lines.values():
            yield from takewhile(lambda sequence: sequence.is_suspended, line)

    def adapters(self) -> Iterator[tuple[Adapter, float]]:
        """Adapters waited for, with the arrival of the first who waits, oldest first."""
        for head in self.heads():
            if head.adapter is not None:
                yield head.adapter, head.arrival_time

    def take_line(self, digest: str) -> list[Sequence]:
        """Remove and return everyone who waits for an adapter."""
        line = list(self._lines.pop(digest, ()))
        self.num_tokens -= sum(sequence.num_tokens for sequence in line)
        return line

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))  # at one go: other threads ask, too

    def __bool__(self) -> bool:
        return bool(self._lines)


def _first(line: Iterable[Sequence]) -> Sequence | None:
    return next((sequence for sequence in line if not sequence.awaits_mask), None)


def _line(sequence: Sequence) -> str | None:
    return sequence.adapter.digest if sequence.adapter else None
