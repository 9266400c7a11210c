"""Finds adapters of a team: ``team/<name>`` is what a JSON file says of ``<name>``."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path

from loramux import LoRARequest, LoRAResolver, hookimpl
from loramux.lora.resolver import stable_lora_int_id

INDEX = "TEAM_ADAPTERS_INDEX"


@hookimpl
def missing_configuration() -> str | None:
    """Without an index, the plugin is left aside."""
    return None if os.environ.get(INDEX) else f"{INDEX} is not set; set it to the index file."


@hookimpl
def register_lora_resolvers(register: Callable[[str, LoRAResolver], None]) -> None:
    """Offer one resolver."""
    register("team", TeamResolver(Path(os.environ[INDEX])))


class TeamResolver(LoRAResolver):
    """Looks names up in an index, whose directories are relative to itself."""

    def __init__(self, index: Path) -> None:
        self.index = index

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        """The index is read for each new name, so it may change while the server runs."""
        directories = json.loads(await asyncio.to_thread(self.index.read_bytes))
        team, _, name = lora_name.partition("/")
        if team != "team" or name not in directories:
            return None
        path = self.index.parent / directories[name]
        return LoRARequest(lora_name, stable_lora_int_id(lora_name), str(path))
