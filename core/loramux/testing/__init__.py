"""For the authors of resolver packages: a contract to inherit, and fixtures to borrow.

This is a pytest plugin; where loramux is installed, its fixtures are there without an import::

    from loramux.testing import ResolverContract

    class TestTeamResolver(ResolverContract):
        @pytest.fixture
        def resolver(self, tmp_path, adapter_files): ...

        @pytest.fixture
        def known_name(self): ...

pytest imports this module at every start, so what is heavy comes with its first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import pytest

from loramux.testing.fixtures import adapter_files, fake_engine, plugin_host, serve_with

if TYPE_CHECKING:
    from loramux.testing.adapter_files import write_adapter
    from loramux.testing.fake_engine import FakeEngine
    from loramux.testing.hostile_names import ESCAPING_NAMES, HOSTILE_NAMES, ODD_NAMES
    from loramux.testing.resolver_contract import ResolverContract

# An editable install does not tell pytest which files are tests; a wheel does.
pytest.register_assert_rewrite("loramux.testing.resolver_contract")

_HOMES = {
    "ESCAPING_NAMES": "loramux.testing.hostile_names",
    "FakeEngine": "loramux.testing.fake_engine",
    "HOSTILE_NAMES": "loramux.testing.hostile_names",
    "ODD_NAMES": "loramux.testing.hostile_names",
    "ResolverContract": "loramux.testing.resolver_contract",
    "write_adapter": "loramux.testing.adapter_files",
}

__all__ = [
    "ESCAPING_NAMES",
    "HOSTILE_NAMES",
    "ODD_NAMES",
    "FakeEngine",
    "ResolverContract",
    "adapter_files",
    "fake_engine",
    "plugin_host",
    "serve_with",
    "write_adapter",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'loramux.testing' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
