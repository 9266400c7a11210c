"""Asks once for what many want, and remembers the answer for a while."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from loramux.errors import AdapterError
from loramux.lora.resolve.single_flight import SingleFlight

Key = TypeVar("Key", bound=Hashable)
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class _Entry(Generic[Answer]):
    answer: Answer | AdapterError
    expiry: float


class AnswerCache(Generic[Key, Answer]):
    """A bounded table of answers, in front of a store that should not be asked too often.

    Errors of the adapter tree are answers too: while a store is down, or has no such thing, a
    storm of requests does not reach it.

    Args:
        ttl: seconds for which an answer is remembered; 0 remembers nothing.
        error_ttl: the same for an error.
        capacity: number of answers at which the one not used for longest is forgotten.
        clock: time in seconds, for tests.
    """

    def __init__(
        self,
        ttl: float,
        error_ttl: float,
        capacity: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ttl = ttl
        self._error_ttl = min(error_ttl, ttl)
        self._capacity = capacity
        self._clock = clock
        self._entries: OrderedDict[Key, _Entry[Answer]] = OrderedDict()
        self._flights: SingleFlight[Answer] = SingleFlight()

    def __len__(self) -> int:
        return len(self._entries)

    async def get(self, key: Key, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """The answer for ``key``, remembered, under way, or asked for now.

        Raises:
            Exception: whatever ``ask`` raises, or raised a moment ago.
        """
        entry = self._entries.get(key)
        if entry is None or entry.expiry <= self._clock():
            return await self._flights.run(key, partial(self._ask, key, ask))
        self._entries.move_to_end(key)
        if isinstance(entry.answer, AdapterError):
            # Raising adds to an exception's traceback, and this one is raised many times.
            raise entry.answer.with_traceback(None)
        return entry.answer

    async def _ask(self, key: Key, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        try:
            answer = await ask()
        except AdapterError as error:
            self._remember(key, error, self._error_ttl)
            raise
        self._remember(key, answer, self._ttl)
        return answer

    def _remember(self, key: Key, answer: Answer | AdapterError, ttl: float) -> None:
        if ttl <= 0:
            return
        self._entries[key] = _Entry(answer, self._clock() + ttl)
        self._entries.move_to_end(key)
        if len(self._entries) > self._capacity:
            self._entries.popitem(last=False)
