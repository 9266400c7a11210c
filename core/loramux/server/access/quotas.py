"""How much each caller has taken of what it may take."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil

from loramux.server.access.caller import Caller
from loramux.server.http.errors import ApiError


class TokenBucket:
    """Fills at ``rate`` tokens a second up to a second's worth, and one at least."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._size = max(rate, 1.0)
        self._tokens = self._size
        self._clock = clock
        self._filled_at = clock()

    def take(self) -> float:
        """Take a token; returns 0, or the seconds after which there will be one."""
        return self._take(1, at_least=1.0)

    def owe(self, tokens: int) -> float:
        """Take tokens before they are there; returns 0, or the seconds after which there will be
        one if some are owed already."""
        return self._take(tokens, at_least=0.0)

    def _take(self, tokens: int, *, at_least: float) -> float:
        now = self._clock()
        self._tokens = min(self._size, self._tokens + (now - self._filled_at) * self.rate)
        self._filled_at = now
        if self._tokens < at_least:
            return (1.0 - self._tokens) / self.rate
        self._tokens -= tokens
        return 0.0


class Quotas:
    """What callers have under way, by name; used on the event loop only.

    Who has no limit leaves no trace, so there is one entry for each limited key at most.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str | None, TokenBucket] = {}
        self._loads: dict[str | None, Counter[str]] = {}

    def count_request(self, caller: Caller) -> None:
        """One more request.

        Raises:
            ApiError: 429, with the seconds to wait, if it is one too many.
        """
        bucket = self._bucket(caller)
        if bucket is not None and (wait := bucket.take()):
            raise _too_much(f"This key may send {bucket.rate:g} requests a second", ceil(wait))

    def count_sequences(self, caller: Caller, sequences: int) -> None:
        """Count all sequences of a request, which was let in as one.

        They may be more than there are left: until that is made up for, no request is let in.

        Raises:
            ApiError: 429, with the seconds to wait, if there are several and those of another
                request are not made up for yet.
        """
        bucket = self._bucket(caller)
        if bucket is not None and sequences > 1 and (wait := bucket.owe(sequences - 1)):
            raise _too_much(
                f"This key may send {bucket.rate:g} requests a second, and this one counts as "
                f"{sequences} (prompts times n)",
                ceil(wait),
            )

    def _bucket(self, caller: Caller) -> TokenBucket | None:
        """None where there is no limit; a new limit begins anew."""
        rate = caller.quota.requests_per_second
        if rate is None:
            return None
        bucket = self._buckets.get(caller.name)
        if bucket is None or bucket.rate != rate:
            bucket = self._buckets[caller.name] = TokenBucket(rate, self._clock)
        return bucket

    @contextmanager
    def loading(self, caller: Caller, adapter_name: str) -> Iterator[None]:
        """Entered while an adapter is searched for and loaded; one of a name counts once.

        Whoever has too many under way is told at once, and does not wait for them: a flood of
        names nobody has would otherwise hold the places of requests that could be served.

        Raises:
            ApiError: 429 if it is one too many.
        """
        limit = caller.quota.concurrent_loads
        if limit is None:
            yield
            return
        loads = self._loads.setdefault(caller.name, Counter())
        if adapter_name not in loads and len(loads) >= limit:
            raise _too_much(f"This key may have {limit} adapters loaded at the same time", 1)
        loads[adapter_name] += 1
        try:
            yield
        finally:
            loads[adapter_name] -= 1
            if not loads[adapter_name]:
                del loads[adapter_name]


def _too_much(sentence: str, seconds: int) -> ApiError:
    message = f"{sentence}; try again in {seconds} s."
    return ApiError(429, "RateLimitError", message, headers={"retry-after": str(seconds)})
