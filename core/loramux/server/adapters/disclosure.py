"""Where an adapter lies, as far as the one who asks may know.

Paths and addresses are for operators. To keys of the role ``infer`` an adapter is its name.
"""

from __future__ import annotations

from loramux.lora.resolve.catalog_entry import CatalogEntry
from loramux.server.access.caller import Caller
from loramux.server.engine_protocol import AdapterInfo
from loramux.server.printable import printable


def path_for(caller: Caller, entry: CatalogEntry) -> str | None:
    """The adapter's path, as a resolver or an operator gave it."""
    return printable(entry.lora_request.path) if caller.is_admin else None


def source_for(caller: Caller, entry: CatalogEntry, info: AdapterInfo | None) -> str | None:
    """Where its bytes came from, with their revision where there is one."""
    if not caller.is_admin:
        return None
    source = entry.lora_request.source
    if source is not None:
        return printable(f"{source.uri}@{source.revision}")
    return place_for(caller, entry, info)


def place_for(caller: Caller, entry: CatalogEntry | None, info: AdapterInfo | None) -> str | None:
    """The directory, repository or address of an adapter that catalog or engine know.

    The engine's word is for operators without patterns: it tells where the same bytes were found
    last, perhaps under somebody else's name.
    """
    if info is not None and caller.is_admin and caller.adapters is None:
        return printable(info.path)
    return None if entry is None else path_for(caller, entry)
