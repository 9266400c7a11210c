"""A number that several threads count up."""

from __future__ import annotations

import threading


class Tally:
    """Counts; ``+=`` of two threads at once would lose one of them."""

    __slots__ = ("_lock", "value")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.value = 0

    def add(self, amount: int = 1) -> None:
        """Count ``amount`` more."""
        with self._lock:
            self.value += amount
