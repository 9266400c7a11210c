"""Adapter tensors in host memory, bounded, the least recently used leaving first."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict

from loramux.lora.disk_cache.byte_size import read_byte_size
from loramux.lora.weights import AdapterWeights


def host_cache_bytes() -> int:
    """``LORAMUX_HOST_CACHE_BYTES``, such as ``64GiB``, or a quarter of this machine's memory.

    Raises:
        EnvironmentVariableError: the variable holds no size.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return read_byte_size("LORAMUX_HOST_CACHE_BYTES", memory // 4)


class HostCache:
    """Adapters by digest, at most ``capacity`` of them; safe to use from several threads.

    Whoever holds the weights keeps them alive; leaving the cache takes them from nobody.

    Args:
        capacity: how many adapters.
        max_bytes: how large they may be together; the latest stays even if it is larger alone.
    """

    def __init__(self, capacity: int, max_bytes: int | None = None) -> None:
        self.capacity = capacity
        self.max_bytes = host_cache_bytes() if max_bytes is None else max_bytes
        self.num_bytes = 0
        self.num_evictions = 0
        self.pinned: frozenset[str] = frozenset()
        """Digests that stay, in place of others and beyond the bounds where there are none."""
        self._weights: OrderedDict[str, AdapterWeights] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, digest: str) -> AdapterWeights | None:
        with self._lock:
            weights = self._weights.get(digest)
            if weights is not None:
                self._weights.move_to_end(digest)
            return weights

    def put(self, weights: AdapterWeights) -> None:
        with self._lock:
            # What leaves is freed after the lock is, because that may take milliseconds.
            left = [self._take(weights.digest)]
            self._weights[weights.digest] = weights
            self.num_bytes += weights.num_bytes
            while self._is_overfull() and (oldest := self._oldest_unpinned(weights.digest)):
                left.append(self._take(oldest))
                self.num_evictions += 1
        del left

    def discard(self, digest: str) -> None:
        with self._lock:
            left = self._take(digest)
        del left

    def __contains__(self, digest: str) -> bool:
        with self._lock:
            return digest in self._weights

    def __len__(self) -> int:
        with self._lock:
            return len(self._weights)

    def _take(self, digest: str) -> AdapterWeights | None:
        weights = self._weights.pop(digest, None)
        self.num_bytes -= 0 if weights is None else weights.num_bytes
        return weights

    def _oldest_unpinned(self, latest: str) -> str | None:
        keep = self.pinned | {latest}
        return next((digest for digest in self._weights if digest not in keep), None)

    def _is_overfull(self) -> bool:
        count = len(self._weights)
        return count > self.capacity or (count > 1 and self.num_bytes > self.max_bytes)
