"""One server with an engine that has no model, shared by the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from loramux.lora.request import LoRARequest
from loramux.lora.resolve.catalog import AdapterCatalog
from loramux.lora.resolve.registry import ResolverChain
from loramux.lora.resolver import LoRAResolver, NamedResolver, ResolverRegistry
from loramux.server.adapters.allowed_paths import AllowedPaths
from loramux.server.state import ServerState
from tests.server.fake_engine import FakeEngine
from tests.server.running_server import RunningServer, running


class FolderResolver(LoRAResolver):
    """Knows the folders of one directory, counts its questions, and fails if told to."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.questions: list[str] = []
        self.error: Exception | None = None

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        self.questions.append(lora_name)
        if self.error is not None:
            raise self.error
        path = self.directory / lora_name
        return LoRARequest(lora_name, 1, str(path)) if path.is_dir() else None


def state_around(engine: FakeEngine, resolver: LoRAResolver, **settings: object) -> ServerState:
    chain = ResolverChain(
        [NamedResolver.of("folder", resolver)], ResolverRegistry(), negative_ttl=0
    )
    catalog = AdapterCatalog(engine.args.model, engine.args.served_names, engine.load_lora, chain)
    return ServerState(
        engine=engine, catalog=catalog, base_names=engine.args.served_names, **settings
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture(scope="module")
def resolver(folder: Path) -> FolderResolver:
    return FolderResolver(folder)


@pytest.fixture(scope="module")
def shared_server(resolver: FolderResolver) -> Iterator[RunningServer]:
    state = state_around(
        FakeEngine(),
        resolver,
        allow_runtime_updates=True,
        max_body_bytes=64 * 1024,
        allowed_paths=AllowedPaths.of(["/"]),
    )
    with running(state) as server:
        yield server


@pytest.fixture
def server(shared_server: RunningServer, resolver: FolderResolver) -> RunningServer:
    """The shared server, its engine as good as new."""
    shared_server.engine.__init__()
    resolver.questions.clear()
    resolver.error = None
    return shared_server


@pytest.fixture
def adapter(folder: Path, request: pytest.FixtureRequest) -> str:
    """The name of an adapter that only the resolver knows, new for each test."""
    name = f"adapter-{abs(hash(request.node.nodeid))}"
    (folder / name).mkdir()
    return name
