"""The resolver keeps the contract of loramux, and loramux finds it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from team_adapters import INDEX, TeamResolver

from loramux.plugins import collect_lora_resolvers, load_plugins
from loramux.testing import ResolverContract


@pytest.fixture
def index(tmp_path: Path, adapter_files: Callable[..., Path]) -> Path:
    adapter_files(tmp_path / "adapters" / "sql-v1")
    file = tmp_path / "index.json"
    file.write_text(json.dumps({"sql": "adapters/sql-v1"}))
    return file


class TestTeamResolver(ResolverContract):
    @pytest.fixture
    def resolver(self, index: Path) -> TeamResolver:
        return TeamResolver(index)

    @pytest.fixture
    def known_name(self) -> str:
        return "team/sql"

    @pytest.fixture
    def change_adapter(
        self, tmp_path: Path, adapter_files: Callable[..., Path]
    ) -> Callable[[], object]:
        return lambda: adapter_files(tmp_path / "adapters" / "sql-v1", seed=1)

    @pytest.fixture
    def lose_store(self, index: Path) -> Callable[[], None]:
        return index.unlink


def test_loramux_finds_the_plugin(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAMUX_PLUGINS", "team_index_resolver")
    monkeypatch.setenv(INDEX, str(index))
    (found,) = collect_lora_resolvers(load_plugins())
    assert found.name == "team"
    assert isinstance(found.resolver, TeamResolver)
