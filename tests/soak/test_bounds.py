"""However many names are asked for: no table of the server has more places than it may."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from loramux import LoRARequest, LoRAResolver
from loramux.errors import AdapterRefusedError, LoramuxError
from loramux.lora.disk_cache.cache import DiskCache
from loramux.lora.fetch import known_adapters
from loramux.lora.fetch.materializer import Materializer
from loramux.lora.resolve import refusal_log
from loramux.lora.resolve.catalog import AdapterCatalog
from loramux.lora.resolve.recent_misses import RecentMisses
from loramux.lora.resolve.registry import ResolverChain
from loramux.lora.resolver import NamedResolver, ResolverRegistry
from loramux.lora.weights import AdapterWeights, LowRankPair
from loramux.server.dashboard import activity, load_log
from loramux.server.dashboard.watching import WatchedEngine, WatchedResolvers

PLACES = 100
"""Of every table here, instead of 4096 or 1024."""

KINDS = ("unknown", "found", "refused", "failing")

TABLES = {
    "catalog._found._entries",
    "catalog._search._resolvers._resolvers._misses._expiry",
    "catalog._search._refusals._told",
    "activity.loads._resolve_seconds",
    "activity.loads._digests",
    "host._known._by_name",
    "host._known._by_origin",
}
"""Those that such names fill, and nothing else."""

CONTAINERS = (dict, list, tuple, set, frozenset, deque)
ENDLESS = (asyncio.AbstractEventLoop, ThreadPoolExecutor, torch.Tensor)
"""What is not the server's own, and what tests know to be bounded."""


class Resolver(LoRAResolver):
    """Does what a name begins with."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        kind = lora_name.partition("-")[0]
        if kind == "refused":
            raise AdapterRefusedError(f"{lora_name} is refused; ask for another.")
        if kind == "failing":
            raise OSError(lora_name)
        if kind == "unknown":
            return None
        return LoRARequest(lora_name, 1, str(self.directory), base_model_name=lora_name)


class Engine:
    """The part of one that brings adapters to the host."""

    def __init__(self, host: Materializer) -> None:
        self.host = host

    async def load_lora(self, request: LoRARequest) -> object:
        adapter = await asyncio.wrap_future(self.host.load(request))
        return self.host.info(request.name, adapter, frozenset())


class Tables:
    """All that remembers names, put together as a server does."""

    def __init__(self, root: Path) -> None:
        digests = itertools.count()
        pair = LowRankPair(torch.zeros(1, 2), torch.zeros(2, 1), 1.0)
        self.materializer = Materializer(
            lambda checkpoint: AdapterWeights(f"{next(digests):x}", {"layer": pair}),
            host_cache_size=4,
            disk_cache=DiskCache(root / "cache", 1000),
        )
        self.chain = ResolverChain([NamedResolver.of("one", Resolver(root))], ResolverRegistry())
        self.chain._misses = RecentMisses(3600, capacity=PLACES)
        self.activity = activity.Activity()
        engine = WatchedEngine(Engine(self.materializer), self.activity)
        resolvers = WatchedResolvers(self.chain, self.activity)
        self.catalog = AdapterCatalog(
            "base", ["base"], engine.load_lora, resolvers, capacity=PLACES
        )

    async def ask(self, kind: str, numbers: range) -> None:
        """Ask for names of a kind, some at a time, as one caller and another."""

        async def find(number: int) -> None:
            with contextlib.suppress(LoramuxError):
                entry, _ = await self.catalog.find(f"{kind}-{number}", f"caller-{number % 7}")
                entry.use.count()

        for start in numbers[::50]:
            await asyncio.gather(*map(find, range(start, start + 50)))

    def sizes(self) -> dict[str, int]:
        """The number of things in every container that can be reached."""
        roots = {"catalog": self.catalog, "activity": self.activity, "host": self.materializer}
        return dict(_sizes(roots))

    def close(self) -> None:
        self.chain.close()
        self.materializer.shutdown()


def _sizes(roots: dict[str, object]) -> Iterator[tuple[str, int]]:
    """Containers by the path to them; elements of one table share a path."""
    seen: set[int] = set()
    found: dict[str, int] = {}
    todo = list(roots.items())
    while todo:
        path, thing = todo.pop()
        if id(thing) in seen or isinstance(thing, ENDLESS):
            continue
        seen.add(id(thing))
        if isinstance(thing, CONTAINERS):
            found[path] = max(found.get(path, 0), len(thing))
            inside = [*thing, *thing.values()] if isinstance(thing, dict) else thing
            todo += [(f"{path}[]", element) for element in inside]
        elif type(thing).__module__.startswith("loramux"):
            todo += [(f"{path}.{name}", value) for name, value in _attributes(thing)]
    yield from found.items()


def _attributes(thing: object) -> Iterator[tuple[str, object]]:
    slots = [slot for kind in type(thing).__mro__ for slot in getattr(kind, "__slots__", ())]
    yield from getattr(thing, "__dict__", {}).items()
    yield from ((slot, getattr(thing, slot)) for slot in slots if hasattr(thing, slot))


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tables]:
    for module, name in (
        (known_adapters, "MAX_KNOWN_ADAPTERS"),
        (load_log, "NAMES_KEPT"),
        (refusal_log, "MAX_REMEMBERED"),
    ):
        assert getattr(module, name) <= 4096
        monkeypatch.setattr(module, name, PLACES)
    tables = Tables(tmp_path)
    yield tables
    tables.close()


def test_tables_that_are_full_stay_as_they_are(tables):
    async def ask(numbers: range) -> dict[str, int]:
        for kind in KINDS:
            await tables.ask(kind, numbers)
        return tables.sizes()

    with asyncio.Runner() as runner:
        full = runner.run(ask(range(3 * PLACES)))
        after = runner.run(ask(range(3 * PLACES, 6 * PLACES)))
    assert after == full
    assert max(full.values()) == PLACES
    assert {path for path, size in full.items() if size == PLACES} == TABLES
