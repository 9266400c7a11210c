"""Keeps callers to the number of adapters they may have loaded."""

from __future__ import annotations

from loramux.lora.resolve.catalog_entry import CatalogEntry
from loramux.server.access.caller import Caller
from loramux.server.state import ServerState


async def make_room_for(server: ServerState, caller: Caller, latest: CatalogEntry) -> None:
    """Unload a caller's own least recently used adapters, down to its quota.

    Nobody else's make room. Adapters that operators load or pin belong to no caller and do not
    count. What is unloaded is found again when it is asked for; requests that run on it finish.
    """
    limit = caller.quota.resident_adapters
    if limit is None or len(server.catalog.found(caller.name)) <= limit:
        return
    pinned = {info.name for info in server.engine.adapter_infos() if info.is_pinned}
    own = [entry for entry in server.catalog.found(caller.name) if entry.name not in pinned]
    others = [entry for entry in own if entry.name != latest.name]
    # The latest one is among those that stay; a limit is 1 at least.
    for entry in others[: max(0, len(own) - limit)]:
        if server.catalog.forget(entry.name, caller.name):
            await server.engine.unload_lora(entry.name)
