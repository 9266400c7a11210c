"""Adapters that are to come to the device although no sequence asks for them now."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Protocol

from loramux.errors import EngineDeadError
from loramux.lora.adapter import Adapter

Order = tuple[Adapter, Future[None]]


class Pool(Protocol):
    """What orders need of the pool that carries them out."""

    def prefetch(self, adapter: Adapter) -> bool: ...

    def take_failure(self, adapter: Adapter) -> Exception | None: ...

    def get(self, adapter: Adapter) -> object | None: ...


class PlacementOrders:
    """Orders of other threads, carried out by the pool between steps."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._new: list[Order] = []
        self._open: list[Order] = []
        self._is_closed = False

    def place(self, adapter: Adapter) -> Future[None]:
        """Done once the adapter is on the device; cancel it to leave. May be called on any thread.

        The future raises what placing raises, or EngineDeadError once these orders are closed.
        While there is no room it stays undone.
        """
        order: Future[None] = Future()
        with self._lock:
            if not self._is_closed:
                self._new.append((adapter, order))
                return order
        order.set_exception(_closed())
        return order

    def advance(self, pool: Pool) -> None:
        """Bring what was ordered a step nearer; on the engine's thread."""
        with self._lock:
            new, self._new = self._new, []
        self._open = [order for order in (*self._open, *new) if not _is_over(*order, pool)]

    def close(self) -> None:
        """Fail what is not carried out, now that the engine's thread has ended."""
        with self._lock:
            self._is_closed = True
            left = [*self._open, *self._new]
            self._open, self._new = [], []
        for _, order in left:
            if order.set_running_or_notify_cancel():
                order.set_exception(_closed())


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


def _closed() -> EngineDeadError:
    return EngineDeadError("The engine was shut down before the adapter was on the device.")
