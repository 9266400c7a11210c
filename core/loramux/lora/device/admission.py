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

    Nobody waits for an adapter but the sequences that asked for it. When one has waited
    ``drain_threshold`` seconds because ``max_loras`` others are running, or because those that
    sequences hold leave no room for it, the one of them that has been needed for longest takes no
    new sequences until there is.

    A sequence that was preempted is suspended: it holds its adapter in memory, since it could not
    go on with any other, but takes no place among the running. Suspended sequences never lock the
    pool: what they hold is resident, so that with nobody running any of them may resume; a
    draining adapter turns new sequences away, never a suspended one.
    """

    pool: DevicePool
    max_loras: int
    drain_threshold: float = 1.0
    _running: Counter[str] = field(default_factory=Counter)
    _suspended: Counter[str] = field(default_factory=Counter)
    _since: dict[str, float] = field(default_factory=dict)
    """When each adapter began to be held."""
    _draining: str | None = None

    @property
    def running_digests(self) -> frozenset[str]:
        """Adapters that sequences run with; may be asked on any thread."""
        return frozenset(self._running)

    def begin(self, waiting: Iterable[tuple[Adapter, float]]) -> None:
        """Before scheduling: prefetch for the queue (``(adapter, arrival)``, oldest first)."""
        self.pool.collect()
        self._draining = None
        wanted: set[str] = set()
        has_room = True
        for adapter, arrival in waiting:
            if not has_room:
                self.pool.note_waiting(adapter)
                continue
            wanted.add(adapter.digest)
            has_room = self.pool.prefetch(adapter, keep=wanted)
            self._consider_draining(adapter, arrival, has_room)

    def may_join(self, adapter: Adapter | None) -> bool:
        """Whether a waiting sequence may run now that never ran before."""
        if adapter is None:
            return True
        if adapter.digest == self._draining or self.pool.get(adapter) is None:
            return False
        return self._has_place(adapter)

    def may_resume(self, adapter: Adapter | None) -> bool:
        """Whether a suspended sequence may run again now."""
        return adapter is None or self._has_place(adapter)

    def join(self, adapter: Adapter | None) -> None:
        """A new sequence starts running; ``may_join`` said yes in this step."""
        if adapter is None:
            return
        self.pool.hold(adapter)
        self._running[adapter.digest] += 1
        self._since.setdefault(adapter.digest, time.monotonic())

    def leave(self, adapter: Adapter | None) -> None:
        """A running sequence is over."""
        self._release(self._running, adapter)

    def suspend(self, adapter: Adapter | None) -> None:
        """A running sequence was preempted; its adapter stays for it."""
        if adapter is not None:
            _decrease(self._running, adapter)
            self._suspended[adapter.digest] += 1

    def resume(self, adapter: Adapter | None) -> None:
        """A suspended sequence runs again; ``may_resume`` said yes in this step."""
        if adapter is not None:
            _decrease(self._suspended, adapter)
            self._running[adapter.digest] += 1

    def abandon(self, adapter: Adapter | None) -> None:
        """A suspended sequence is over: it was aborted or has failed."""
        self._release(self._suspended, adapter)

    def _release(self, counts: Counter[str], adapter: Adapter | None) -> None:
        if adapter is None:
            return
        _decrease(counts, adapter)
        if adapter.digest not in self._running and adapter.digest not in self._suspended:
            del self._since[adapter.digest]
        self.pool.let_go(adapter)

    def _has_place(self, adapter: Adapter) -> bool:
        return adapter.digest in self._running or len(self._running) < self.max_loras

    def _consider_draining(self, adapter: Adapter, arrival: float, has_room: bool) -> None:
        if self._draining is not None or time.monotonic() - arrival <= self.drain_threshold:
            return
        if not has_room:
            in_the_way = list(self._since)
        elif self.pool.get(adapter) is not None and not self._has_place(adapter):
            in_the_way = list(self._running)
        else:
            return
        self._draining = min(in_the_way, key=self._since.__getitem__, default=None)


def _decrease(counts: Counter[str], adapter: Adapter) -> None:
    counts[adapter.digest] -= 1
    if not counts[adapter.digest]:
        del counts[adapter.digest]
