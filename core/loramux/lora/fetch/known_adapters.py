"""Adapters that somebody asked for, without their tensors."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TypeVar
from weakref import WeakValueDictionary

from loramux.lora.adapter import Adapter
from loramux.lora.fetch.origin import CheckpointOrigin
from loramux.lora.weights import AdapterWeights

Key = TypeVar("Key")
Value = TypeVar("Value")

MAX_KNOWN_ADAPTERS = 4096
"""Bounds what is remembered: a few hundred bytes each."""


class KnownAdapters:
    """By content, by where they were found, and by the name they were asked for under.

    Safe to use from several threads. One content is one adapter, whatever it is called and
    wherever it lies. A name may mean one adapter here and another one there, as resolvers may
    answer callers differently. The names and places used least recently are forgotten first.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_digest: WeakValueDictionary[str, Adapter] = WeakValueDictionary()
        self._by_origin: OrderedDict[CheckpointOrigin, Adapter] = OrderedDict()
        self._by_name: OrderedDict[tuple[str, str], Adapter] = OrderedDict()
        """By name and address: of one name there may be several."""

    def of(self, digest: str) -> Adapter | None:
        """The adapter of this content."""
        with self._lock:
            return self._by_digest.get(digest)

    def at(self, origin: CheckpointOrigin) -> Adapter | None:
        """The adapter that was found there."""
        with self._lock:
            return self._by_origin.get(origin)

    def named(self) -> list[tuple[str, Adapter]]:
        """Names and their adapters, the latest asked for last."""
        with self._lock:
            found = [(name, adapter) for (name, _), adapter in self._by_name.items()]
        return list(dict.fromkeys(reversed(found)))[::-1]  # once, if it lies at two addresses

    def adopt(self, origin: CheckpointOrigin, weights: AdapterWeights) -> Adapter:
        """The adapter that was read there: a new one, or one that is already known elsewhere."""
        with self._lock:
            adapter = self._by_digest.get(weights.digest)
            if adapter is None:
                adapter = Adapter(
                    weights.digest, origin, weights.max_rank, weights.num_bytes,
                    weights.num_elements,
                )  # fmt: skip
                self._by_digest[weights.digest] = adapter
            put_bounded(self._by_origin, origin, adapter)
        return adapter

    def name(
        self, name: str, origin: CheckpointOrigin, adapter: Adapter, *, is_the_only: bool = False
    ) -> list[Adapter]:
        """Note under which name and where an adapter was found last.

        Args:
            is_the_only: whether the name means no other adapter any more, wherever it lies.

        Returns:
            The adapters that have lost their last name by that.
        """
        key = name, origin.address
        with self._lock:
            before = self._drop(name) if is_the_only else {self._by_name.get(key, adapter)}
            adapter.origin = origin  # a copy elsewhere that it was read from may be gone by now
            put_bounded(self._by_origin, origin, adapter)
            put_bounded(self._by_name, key, adapter)
            return self._unnamed(before - {adapter})

    def forget(self, name: str) -> list[Adapter]:
        """Drop a name; returns those of its adapters whose last it was."""
        with self._lock:
            return self._unnamed(self._drop(name))

    def _drop(self, name: str) -> set[Adapter]:
        """Forget what a name means anywhere."""
        keys = [key for key in self._by_name if key[0] == name]
        return {self._by_name.pop(key) for key in keys}

    def _unnamed(self, adapters: set[Adapter]) -> list[Adapter]:
        return list(adapters.difference(self._by_name.values())) if adapters else []


def put_bounded(table: OrderedDict[Key, Value], key: Key, value: Value) -> None:
    """Add the latest entry; the oldest leaves a table of more than ``MAX_KNOWN_ADAPTERS``."""
    table[key] = value
    table.move_to_end(key)
    if len(table) > MAX_KNOWN_ADAPTERS:
        table.popitem(last=False)
