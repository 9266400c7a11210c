"""The Hub resolver keeps what every resolver promises."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from loramux.testing import ResolverContract
from loramux_resolvers.hf_hub import HubLoRAResolver
from tests.resolvers.hub_server import HubServer, wait

REPO = "org/adapters"


class TestHub(ResolverContract):
    @pytest.fixture
    def push(self, hub: HubServer, tmp_path, adapter_files) -> Callable[[int], str]:
        def push_adapter(seed: int) -> str:
            root = tmp_path / "to-push"
            adapter_files(root / "team" / "good", seed=seed)
            return hub.repository(REPO).push(_files(root))

        return push_adapter

    @pytest.fixture
    def resolver(self, push) -> HubLoRAResolver:
        push(1)
        return HubLoRAResolver({REPO: None}, timeout=20, revision_ttl=0)

    @pytest.fixture
    def known_name(self) -> str:
        return f"{REPO}/team/good"

    @pytest.fixture
    def change_adapter(self, push) -> Callable[[], object]:
        return lambda: push(2)

    @pytest.fixture
    def lose_store(self, hub) -> Callable[[], object]:
        return hub.close

    @pytest.fixture
    def slow_store(self, hub) -> Callable[[float], object]:
        return lambda seconds: hub.when("", wait(seconds))


def _files(root: Path) -> dict[str, bytes]:
    paths = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}
