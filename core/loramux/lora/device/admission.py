"""Which adapters may run in the next batch."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from loramux.lora.adapter import Adapter
from loramux.lora.device.pool import DevicePool


@dataclass
class AdapterAdmission:
    """Keeps a batch to ``max_loras`` adapters, all of them resident, and lets none starve.

    Nobody waits for an adapter but the sequences that asked for it. When one that is ready has
    waited ``drain_threshold`` seconds because ``max_loras`` others are running, the one of them
    that has run longest takes no more sequences, until a place is free.
    """

    pool: DevicePool
    max_loras: int
    drain_threshold: float = 1.0
    _running: Counter[str] = field(default_factory=Counter)
    _since: dict[str, float] = field(default_factory=dict)
    _draining: str | None = None

    def begin(self, waiting: Iterable[tuple[Adapter, float]]) -> None:
        """Before scheduling: prefetch for the queue (``(adapter, arrival)``, oldest first)."""
        self.pool.collect()
        self._draining = None
        wanted: set[str] = set()
        for adapter, arrival in waiting:
            wanted.add(adapter.digest)
            if not self.pool.prefetch(adapter, keep=wanted):
                break
            self._consider_draining(adapter, arrival)

    def may_join(self, adapter: Adapter | None) -> bool:
        """Whether a waiting sequence may run now."""
        if adapter is None:
            return True
        digest = adapter.digest
        if digest == self._draining or self.pool.get(adapter) is None:
            return False
        return digest in self._running or len(self._running) < self.max_loras

    def join(self, adapter: Adapter | None) -> None:
        """A sequence starts running; ``may_join`` said yes in this step."""
        if adapter is None:
            return
        self.pool.hold(adapter)
        self._running[adapter.digest] += 1
        self._since.setdefault(adapter.digest, time.monotonic())

    def leave(self, adapter: Adapter | None) -> None:
        """A running sequence has finished or was preempted."""
        if adapter is None:
            return
        digest = adapter.digest
        self.pool.let_go(adapter)
        self._running[digest] -= 1
        if not self._running[digest]:
            del self._running[digest]
            del self._since[digest]

    def _consider_draining(self, adapter: Adapter, arrival: float) -> None:
        if self._draining is not None or adapter.digest in self._running:
            return
        if self.pool.get(adapter) is None:
            return
        has_waited = time.monotonic() - arrival > self.drain_threshold
        if has_waited and len(self._running) >= self.max_loras:
            self._draining = min(self._since, key=self._since.__getitem__)
