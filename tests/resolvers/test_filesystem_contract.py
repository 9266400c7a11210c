"""The filesystem resolver keeps what every resolver promises."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from loramux.testing import ResolverContract
from loramux_resolvers import filesystem
from loramux_resolvers.filesystem import FilesystemLoRAResolver


class TestFilesystem(ResolverContract):
    @pytest.fixture
    def root(self, tmp_path, adapter_files) -> Path:
        adapter_files(tmp_path / "secret", seed=1)
        adapter_files(tmp_path / "root" / "team" / "good", seed=2)
        return tmp_path / "root"

    @pytest.fixture
    def resolver(self, root) -> FilesystemLoRAResolver:
        return FilesystemLoRAResolver(root)

    @pytest.fixture
    def known_name(self) -> str:
        return "team/good"

    @pytest.fixture
    def change_adapter(self, root, adapter_files) -> Callable[[], object]:
        return lambda: adapter_files(root / "team" / "good", seed=3)

    @pytest.fixture
    def lose_store(self, root) -> Callable[[], object]:
        return lambda: root.rename(root.parent / "elsewhere")

    @pytest.fixture
    def slow_store(self, monkeypatch) -> Callable[[float], None]:
        genuine = filesystem._checkpoint

        def slow_down(seconds: float) -> None:
            def slow(*args):
                time.sleep(seconds)
                return genuine(*args)

            monkeypatch.setattr(filesystem, "_checkpoint", slow)

        return slow_down


class TestFilesystemOfOneBaseModel(TestFilesystem):
    @pytest.fixture
    def root(self, tmp_path, adapter_files) -> Path:
        adapter_files(tmp_path / "secret", seed=1)
        adapter_files(tmp_path / "root" / "base" / "team" / "good", seed=2)
        return tmp_path / "root"

    @pytest.fixture
    def change_adapter(self, root, adapter_files) -> Callable[[], object]:
        return lambda: adapter_files(root / "base" / "team" / "good", seed=3)
