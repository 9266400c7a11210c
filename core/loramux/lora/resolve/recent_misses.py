"""Names that were found nowhere a moment ago."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable


class RecentMisses:
    """Remembers keys for a short time, and no more than ``capacity`` of them.

    Keeps a client that retries an unknown name from asking every store each time, while ten
    million different names leave memory as it was. A key is not kept longer for being asked about,
    so a name that comes into being is found after ``ttl`` at the latest.

    Args:
        ttl: seconds for which a key is remembered; 0 remembers none.
        capacity: number of keys at which the oldest is forgotten.
        clock: time in seconds, for tests.
    """

    def __init__(
        self, ttl: float, capacity: int = 4096, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ttl = ttl
        self._capacity = capacity
        self._clock = clock
        self._expiry: OrderedDict[Hashable, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._expiry)

    def __contains__(self, key: Hashable) -> bool:
        expiry = self._expiry.get(key)
        if expiry is None:
            return False
        if expiry > self._clock():
            return True
        del self._expiry[key]
        return False

    def add(self, key: Hashable) -> None:
        """Remember a key from now on."""
        if self._ttl <= 0:
            return
        self._expiry[key] = self._clock() + self._ttl
        self._expiry.move_to_end(key)
        if len(self._expiry) > self._capacity:
            self._expiry.popitem(last=False)

    def clear(self) -> None:
        """Forget all keys."""
        self._expiry.clear()
