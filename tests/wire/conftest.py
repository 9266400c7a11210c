"""One server for all tests of this folder, and its stores as good as new for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.resolvers.s3_servers import running_moto
from tests.wire.world import World, world


@pytest.fixture(scope="session")
def shared_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_moto() as moto, world(tmp_path_factory.mktemp("world"), moto) as made:
        yield made


@pytest.fixture
def wire(shared_world: World) -> World:
    shared_world.s3.reset()
    shared_world.hub.behave()
    shared_world.hub.requests.clear()
    return shared_world
