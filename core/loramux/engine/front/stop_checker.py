"""Finds stop strings in text that comes in pieces."""

from __future__ import annotations

import re
from collections.abc import Sequence


class StopChecker:
    """Looks for stop strings and keeps back text that may turn out to be the beginning of one.

    The stop string whose last character comes first wins, as if text came character by character;
    of several that end together, the first in the list (both as in vLLM).

    Args:
        stops: at least one string, none empty.
        include: whether the stop string is part of the text. Then nothing is kept back.
    """

    __slots__ = ("_beginnings", "_held", "_include", "_longest", "_stops", "_window", "matched")

    def __init__(self, stops: Sequence[str], include: bool) -> None:
        self._stops = stops
        self._include = include
        self._longest = max(map(len, stops))
        first_characters = {stop[0] for stop in stops if len(stop) > 1}
        self._beginnings = re.compile("|".join(map(re.escape, first_characters)) or r"(?!)")
        self._window = ""
        """The last characters seen, as many as a stop string may reach back."""
        self._held = 0
        """How many characters at its end were kept back."""
        self.matched: str | None = None
        """The stop string that was found."""

    def feed(self, text: str, may_stop: bool = True) -> str:
        """Text to hand out now that ``text`` has come; ends before (or with) the stop string.

        Args:
            text: what is new.
            may_stop: whether a stop string that ends in ``text`` counts.
        """
        if not text:
            return ""
        seen = len(self._window)
        window = self._window + text
        start = seen - self._held
        if may_stop and (cut := self._find(window, seen)) is not None:
            self._window, self._held = "", 0
            return window[start:cut]
        self._held = 0 if self._include else self._beginning_at_end(window)
        self._window = window[max(0, len(window) - self._longest + 1) :]
        return window[start : len(window) - self._held]

    def flush(self) -> str:
        """Text that was kept back and is no stop string after all."""
        held = self._window[len(self._window) - self._held :]
        self._held = 0
        return held

    def _find(self, window: str, seen: int) -> int | None:
        """Where to cut ``window`` for a stop string that ends after its first ``seen`` characters.

        Sets ``matched``.
        """
        first_end = len(window) + 1
        for stop in self._stops:
            start = window.find(stop, max(0, seen + 1 - len(stop)))
            if 0 <= start < first_end - len(stop):
                first_end = start + len(stop)
                self.matched = stop
        if self.matched is None:
            return None
        return first_end if self._include else first_end - len(self.matched)

    def _beginning_at_end(self, window: str) -> int:
        """Length of the longest end of ``window`` that begins a stop string."""
        earliest = max(0, len(window) - self._longest + 1)
        for found in self._beginnings.finditer(window, earliest):
            end = window[found.start() :]
            if any(len(stop) > len(end) and stop.startswith(end) for stop in self._stops):
                return len(end)
        return 0
