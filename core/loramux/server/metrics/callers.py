"""Answers by whose key asked, for a bounded number of keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from loramux.server.access.caller import Caller

MAX_CALLERS = 100
"""Keys with figures of their own, the first that asked; the others are counted together."""

NO_KEY = "(no key)"
OTHERS = "(others)"
"""No key has such a name: a name begins with a letter or a digit."""


class CallerAnswers:
    """How often each caller got which status. Counted on the server's event loop."""

    def __init__(self) -> None:
        self.by_name: dict[str, Counter[int]] = {NO_KEY: Counter(), OTHERS: Counter()}

    def count(self, caller: str | None, status: int) -> None:
        """Count an answer to the key of that name; None is whoever had none that is taken."""
        name = NO_KEY if caller is None else caller
        if name not in self.by_name and len(self.by_name) >= MAX_CALLERS + 2:
            name = OTHERS
        self.by_name.setdefault(name, Counter())[status] += 1

    def shown(self, viewer: Caller) -> Iterator[tuple[tuple[str, str], int]]:
        """``((name, status), count)``; who may use some adapters only sees only its own."""
        for name, statuses in self.by_name.copy().items():
            if viewer.adapters is None or name == viewer.name:
                for status, count in statuses.copy().items():
                    yield (name, str(status)), count
