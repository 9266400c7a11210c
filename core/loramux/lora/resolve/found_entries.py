"""What resolvers found, each for the caller who asked and for nobody else."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from loramux.lora.resolve.catalog_entry import CatalogEntry

Key = tuple[str, str | None]
"""A found name and the caller who asked for it."""


class FoundEntries:
    """A bounded table; the entries used least recently leave first.

    Args:
        capacity: entries that are remembered.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[Key, CatalogEntry] = OrderedDict()

    def __iter__(self) -> Iterator[CatalogEntry]:
        return iter(self._entries.values())

    def get(self, key: Key) -> CatalogEntry | None:
        """What was found."""
        return self._entries.get(key)

    def of(self, caller: str | None) -> list[CatalogEntry]:
        """What was found for a caller, the least recently used first."""
        return [entry for (_, owner), entry in self._entries.items() if owner == caller]

    def has(self, name: str) -> bool:
        """Whether it was found for anybody."""
        return any(key[0] == name for key in self._entries)

    def put(self, key: Key, entry: CatalogEntry) -> None:
        """Remember what was found just now."""
        self._entries[key] = entry
        self._entries.move_to_end(key)
        while len(self._entries) > self._capacity:
            self._entries.popitem(last=False)

    def use(self, key: Key) -> None:
        """An entry is the latest used, if it is still here."""
        if key in self._entries:
            self._entries.move_to_end(key)

    def replace(self, key: Key, known: CatalogEntry, entry: CatalogEntry) -> None:
        """Put an entry in another's place, unless that has gone or was replaced meanwhile."""
        if self.get(key) is known:
            self._entries[key] = entry

    def drop(self, key: Key, known: CatalogEntry) -> None:
        """Forget an entry, unless there is another in its place by now."""
        if self.get(key) is known:
            del self._entries[key]

    def forget(self, name: str, caller: str | None) -> None:
        """Forget what was found for one caller."""
        self._entries.pop((name, caller), None)

    def forget_all(self, name: str) -> bool:
        """Forget what was found for anybody; tells whether there was any."""
        keys = [key for key in self._entries if key[0] == name]
        for key in keys:
            del self._entries[key]
        return bool(keys)
