"""What is known of one adapter name that is served."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from loramux.lora.request import LoRARequest


@dataclass
class Use:
    """How often an entry was asked for, and when last, in seconds since 1970."""

    hits: int = 0
    last: float | None = None

    def count(self) -> None:
        """One request more."""
        self.hits += 1
        self.last = time.time()

    def add(self, other: Use) -> None:
        """Count what another one has counted."""
        self.hits += other.hits
        self.last = max(self.last or 0.0, other.last or 0.0) or None


@dataclass(frozen=True)
class CatalogEntry:
    """A name that is served. ``resolver_name`` is None for an adapter registered by name."""

    name: str
    lora_request: LoRARequest
    digest: str
    """Of the bytes that were loaded last under this entry."""
    resolver_name: str | None = None
    is_directory: bool = False
    """Whether the path was a directory of this machine when the adapter was found."""
    search_seconds: float = 0.0
    """How long finding and loading it took."""
    checked_at: float = field(default_factory=time.monotonic)
    """When the resolvers were last asked for it, by :func:`time.monotonic`."""
    is_unconfirmed: bool = False
    """Whether they could not tell then, and the entry is what they said before."""
    use: Use = field(default_factory=Use, compare=False)

    @property
    def found_by(self) -> str:
        return self.resolver_name or "registered"


def uses_by_name(entries: Iterable[CatalogEntry]) -> dict[str, Use]:
    """How each name was used by all who have an entry of it."""
    uses: dict[str, Use] = {}
    for entry in entries:
        uses.setdefault(entry.name, Use()).add(entry.use)
    return uses
