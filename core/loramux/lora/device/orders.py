"""Adapters that are to come to the device although no sequence asks for them now."""

from __future__ import annotations

import queue
from concurrent.futures import Future
from typing import Protocol

from loramux.lora.adapter import Adapter


class Pool(Protocol):
    """What orders need of the pool that carries them out."""

    def prefetch(self, adapter: Adapter) -> bool: ...

    def take_failure(self, adapter: Adapter) -> Exception | None: ...

    def get(self, adapter: Adapter) -> object | None: ...


class PlacementOrders:
    """Orders of other threads, carried out by the pool between steps."""

    def __init__(self) -> None:
        self._new: queue.SimpleQueue[tuple[Adapter, Future[None]]] = queue.SimpleQueue()
        self._open: list[tuple[Adapter, Future[None]]] = []

    def place(self, adapter: Adapter) -> Future[None]:
        """Done once the adapter is on the device; cancel it to leave. May be called on any thread.

        The future raises what placing raises. While there is no room it stays undone.
        """
        order: Future[None] = Future()
        self._new.put((adapter, order))
        return order

    def advance(self, pool: Pool) -> None:
        """Bring what was ordered a step nearer; on the engine's thread."""
        while not self._new.empty():
            self._open.append(self._new.get())
        self._open = [order for order in self._open if not _is_over(*order, pool)]


def _is_over(adapter: Adapter, order: Future[None], pool: Pool) -> bool:
    if order.cancelled():
        return True
    pool.prefetch(adapter)
    failure = pool.take_failure(adapter)
    if failure is None and pool.get(adapter) is None:
        return False
    if order.set_running_or_notify_cancel():
        order.set_result(None) if failure is None else order.set_exception(failure)
    return True
