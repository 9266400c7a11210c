"""The real server in front of a fake engine, without a socket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from starlette.testclient import TestClient

from loramux.lora.resolve.registry import ResolverChain
from loramux.lora.resolver import LoRAResolver, NamedResolver, ResolverRegistry
from loramux.server.app import build_app
from loramux.server.launch import build_catalog
from loramux.server.state import ServerState
from loramux.testing.fake_engine import FakeEngine


@contextmanager
def serving(resolver: LoRAResolver, engine: FakeEngine) -> Iterator[TestClient]:
    """An HTTP client of a server that asks this resolver, and no other, for unknown names."""
    named = NamedResolver.of("resolver under test", resolver)
    chain = ResolverChain([named], ResolverRegistry(), negative_ttl=0)
    state = ServerState(engine, build_catalog(engine, chain), engine.args.served_names)
    try:
        with TestClient(build_app(state)) as client:
            yield client
    finally:
        state.tokenizer.close()
        chain.close()
