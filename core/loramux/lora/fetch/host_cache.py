"""Adapter tensors in host memory, bounded, the least recently used leaving first."""

from __future__ import annotations

import threading
from collections import OrderedDict

from loramux.lora.weights import AdapterWeights


class HostCache:
    """At most ``capacity`` adapters by digest; safe to use from several threads.

    Whoever holds the weights keeps them alive; leaving the cache takes them from nobody.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
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
            self._weights[weights.digest] = weights
            self._weights.move_to_end(weights.digest)
            while len(self._weights) > self.capacity:
                self._weights.popitem(last=False)

    def discard(self, digest: str) -> None:
        with self._lock:
            self._weights.pop(digest, None)

    def __contains__(self, digest: str) -> bool:
        with self._lock:
            return digest in self._weights

    def __len__(self) -> int:
        with self._lock:
            return len(self._weights)
