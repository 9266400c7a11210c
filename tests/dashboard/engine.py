"""An engine without a model that holds whichever adapters a test says."""

from __future__ import annotations

from loramux.engine.stats import EngineStats
from loramux.lora.adapter import AdapterInfo, Tier
from loramux.lora.resolve.catalog import AdapterCatalog
from loramux.lora.resolve.registry import ResolverChain
from loramux.lora.resolver import NamedResolver, ResolverRegistry
from loramux.server.dashboard.activity import Activity
from loramux.server.dashboard.watching import watched
from loramux.server.state import ServerState
from tests.server.conftest import FolderResolver
from tests.server.fake_engine import FakeEngine
from tests.server.running_server import RunningServer

TIERS = list(Tier)


def info(name: str, number: int = 0) -> AdapterInfo:
    return AdapterInfo(
        name=name,
        digest=f"{number:064x}",
        path=f"/srv/adapters/{name}",
        rank=8 * (number % 4 + 1),
        num_bytes=300_000 * (number % 7 + 1),
        tier=TIERS[number % 3],
        load_seconds={"fetch": 0.0, "read": 0.0123, "place": 0.004},
    )


class ShelfEngine(FakeEngine):
    def __init__(self) -> None:
        super().__init__()
        self.infos: list[AdapterInfo] = []

    def adapter_infos(self) -> list[AdapterInfo]:
        return self.infos

    def stats(self) -> EngineStats:
        return EngineStats(num_running=len(self.running), num_waiting=2, kv_cache_usage=0.25)


def engine_of(server: RunningServer) -> ShelfEngine:
    """The engine itself, without the watch on it."""
    return server.state.engine._engine


def state_with_dashboard(resolver: FolderResolver) -> ServerState:
    activity = Activity()
    chain = ResolverChain(
        [NamedResolver.of("folder", resolver)], ResolverRegistry(), negative_ttl=0
    )
    engine, asked = watched(ShelfEngine(), chain, activity)
    catalog = AdapterCatalog(engine.args.model, engine.args.served_names, engine.load_lora, asked)
    return ServerState(
        engine=engine, catalog=catalog, base_names=engine.args.served_names, activity=activity
    )
