"""Bringing an adapter here by its name, before anybody asks a server for it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from loramux.cli.adapter_report import DIGEST_LENGTH, summary_as_json
from loramux.cli.table import megabytes
from loramux.lora.checkpoint.summary import CheckpointSummary, summarise_checkpoint
from loramux.lora.disk_cache.cache import DiskCache
from loramux.lora.fetch.locate import locate
from loramux.lora.resolve.registry import Resolved, ResolverChain
from loramux.lora.source import FetchProgress
from loramux.plugins import collect_lora_resolvers, load_plugins


@dataclass(frozen=True)
class PulledAdapter:
    """An adapter that is on this machine now."""

    name: str
    path: Path
    origin: str
    resolver_name: str
    summary: CheckpointSummary

    def as_json(self) -> dict[str, Any]:
        """The same, for :func:`json.dumps`."""
        return {
            "name": self.name,
            "path": str(self.path),
            "origin": self.origin,
            "found_by": self.resolver_name,
            **summary_as_json(self.summary),
        }


def pull(name: str, base_model_name: str) -> PulledAdapter:
    """Find an adapter, fetch it into the cache and check it; a progress bar is on stderr.

    Raises:
        ModelNotFoundError: no resolver has it.
        AdapterError: it cannot be fetched or read.
        PluginError: the plugins are not configured as they have to be.
    """
    found = _resolve(name, base_model_name)
    origin = locate(found.lora_request)
    cache = DiskCache.from_environment()
    with _bar(name) as progress, origin.opened(cache, progress) as checkpoint:
        summary = summarise_checkpoint(checkpoint.directory)
    print(
        f"{name}: {megabytes(summary.num_bytes)}, rank {max(summary.ranks)}, digest "
        f"{summary.digest[:DIGEST_LENGTH]}, found by {found.resolver_name} at {origin.place}",
        file=sys.stderr,
    )
    return PulledAdapter(name, checkpoint.directory, origin.place, found.resolver_name, summary)


def _resolve(name: str, base_model_name: str) -> Resolved:
    chain = ResolverChain(collect_lora_resolvers(load_plugins()))
    try:
        return asyncio.run(chain.resolve(base_model_name, name))
    finally:
        chain.close()


@contextmanager
def _bar(name: str) -> Iterator[FetchProgress]:
    """A progress bar; nothing where nobody watches."""
    with tqdm(desc=name, unit="B", unit_scale=True, disable=None, leave=False) as bar:

        def show(bytes_done: int, bytes_total: int) -> None:
            bar.total = bytes_total or None
            bar.update(bytes_done - bar.n)

        yield show
