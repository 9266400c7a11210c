"""One piece of work per key, however many want its result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


@dataclass(eq=False)
class _Flight(Generic[Value]):
    task: asyncio.Task[Value]
    waiters: int = 0


class SingleFlight(Generic[Value]):
    """Lets callers that want the same thing at the same time share one piece of work.

    A result and an exception are handed to all who wait for it, and to nobody who comes later:
    nothing is kept once the work has ended. A waiter that is cancelled leaves the others alone;
    when the last one is cancelled, so is the work. Callers in different event loops do not share.
    """

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight[Value]] = {}
        self.num_joins = 0
        """Callers who found the work they want under way."""

    def __len__(self) -> int:
        """Number of pieces of work under way."""
        return len(self._flights)

    async def run(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, Value]]) -> Value:
        """Join the work under way for ``key``, or start it.

        Raises:
            Exception: whatever ``work`` raises, the same object for each who waits.
        """
        key = (asyncio.get_running_loop(), key)
        flight = self._flights.get(key)
        self.num_joins += flight is not None
        flight = flight or self._start(key, work)
        flight.waiters += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiters -= 1
            if not flight.waiters and not flight.task.done():
                # Forgotten at once and not when the cancelled task has ended: whoever comes in
                # between wants the work done, and not its cancellation.
                self._forget(key, flight)
                flight.task.cancel()

    def _start(
        self, key: Hashable, work: Callable[[], Coroutine[Any, Any, Value]]
    ) -> _Flight[Value]:
        flight = _Flight(asyncio.create_task(work()))
        self._flights[key] = flight
        flight.task.add_done_callback(lambda _: self._forget(key, flight))
        return flight

    def _forget(self, key: Hashable, flight: _Flight[Value]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
