"""Distributions that are really installed, each in a directory of its own on ``sys.path``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pluggy
import pytest

from loramux_plugins import PluginHost

GROUP = "fake.plugins"

hookspec = pluggy.HookspecMarker("fake")


class FakeHooks:
    """What the owner of the hosts in these tests asks its plugins."""

    @hookspec
    def greet(self, name: str) -> str | None:
        """Greet somebody."""


GREETER = """
import pluggy

hookimpl = pluggy.HookimplMarker("fake")

@hookimpl
def greet(name):
    return f"{__name__} greets {name}"
"""


class Site:
    """Installs distributions; ``install`` takes module sources and writes metadata."""

    def __init__(self, root: Path, prepend: Callable[[str], None]) -> None:
        self._root = root
        self._prepend = prepend
        self.modules: set[str] = set()

    def install(
        self,
        distribution: str,
        entry_points: dict[str, str] | str,
        modules: dict[str, str] | None = None,
        *,
        group: str = GROUP,
        version: str = "1.0",
    ) -> Path:
        """Install one distribution; ``entry_points`` as text is written as it stands."""
        place = self._root / f"site{len(list(self._root.iterdir()))}"
        metadata = place / f"{distribution.replace('-', '_')}-{version}.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n\nVersion: none\n"
        )
        if isinstance(entry_points, dict):
            lines = [f"{name} = {value}" for name, value in entry_points.items()]
            entry_points = "\n".join([f"[{group}]", *lines, ""])
        (metadata / "entry_points.txt").write_text(entry_points)
        for name, source in (modules or {}).items():
            (place / f"{name}.py").write_text(source)
            self.modules.add(name)
        self._prepend(str(place))
        return metadata

    def install_greeter(self, name: str, source: str = GREETER) -> None:
        """Install the distribution ``<name>-package`` with one plugin, ``name``."""
        module = f"module_of_{name}"
        self.install(f"{name}-package", {name: module}, {module: source})


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    root = tmp_path / "sites"
    root.mkdir()
    site = Site(root, monkeypatch.syspath_prepend)
    yield site
    for module in site.modules:
        sys.modules.pop(module, None)


@pytest.fixture
def host() -> PluginHost:
    return PluginHost("fake", GROUP, [FakeHooks])


def python(code: str) -> str:
    """What a fresh interpreter prints, which finds the same packages as this one."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    return done.stdout


def greetings(host: PluginHost) -> list[str]:
    """What the active plugins of a host answer, in order."""
    return [host.call(plugin, "greet", name="you") for plugin in host.implementing("greet")]


def states(host: PluginHost) -> dict[str, str]:
    """State of each plugin by its name."""
    return {info.name: str(info.state) for info in host.describe()}
