"""The fixtures that every test may ask for by name where loramux is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from starlette.testclient import TestClient

    from loramux.lora.resolver import LoRAResolver
    from loramux.testing.fake_engine import FakeEngine
    from loramux_plugins import PluginHost


@pytest.fixture
def adapter_files() -> Callable[..., Path]:
    """:func:`loramux.testing.write_adapter`: ``adapter_files(directory, seed=1, rank=8)``."""
    from loramux.testing.adapter_files import write_adapter

    return write_adapter


@pytest.fixture
def plugin_host() -> PluginHost:
    """A host that knows loramux's hooks and holds no plugin.

    ``plugin_host.register(module, "name")`` adds one as an entry point would, and
    ``loramux.plugins.collect_lora_resolvers(plugin_host)`` calls its hook.
    """
    from loramux.plugins import create_plugin_host

    return create_plugin_host()


@pytest.fixture
def fake_engine() -> FakeEngine:
    """An engine without a model: see :class:`loramux.testing.FakeEngine`."""
    from loramux.testing.fake_engine import FakeEngine

    return FakeEngine()


@pytest.fixture
def serve_with(fake_engine: FakeEngine) -> Iterator[Callable[[LoRAResolver], TestClient]]:
    """``serve_with(resolver)`` is an HTTP client of a server that has this resolver.

    The server is the real one, its engine is the fixture ``fake_engine``. Needs ``httpx``.
    """
    from loramux.testing.fake_server import serving

    with ExitStack() as stack:
        yield lambda resolver: stack.enter_context(serving(resolver, fake_engine))
