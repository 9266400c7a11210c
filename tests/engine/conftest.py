"""The model, its adapters and the engines that tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from loramux import LLMEngine
from tests.engine.world import World, check_idle, make_engine


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    return World.make(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def engines(world) -> Iterator[Callable[..., LLMEngine]]:
    """Makes engines, or finds one that a test of the module has made with the same arguments."""
    made: dict[tuple[tuple[str, object], ...], LLMEngine] = {}

    def engine(**changes: object) -> LLMEngine:
        key = tuple(sorted(changes.items()))
        if key not in made:
            made[key] = make_engine(world.model, **changes)
        return made[key]

    yield engine
    for one in made.values():
        check_idle(one)
        one.shutdown()
