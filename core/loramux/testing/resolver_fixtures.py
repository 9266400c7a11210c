"""What the tests of a resolver start from: what its author gives, and what is made of that."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from loramux.lora.request import LoRARequest
from loramux.lora.resolve.registry import ResolverChain
from loramux.lora.resolver import LoRAResolver, NamedResolver, ResolverRegistry
from loramux.lora.source import AdapterSource
from loramux.testing.asking import Asker


class ResolverFixtures:
    """The fixtures of :class:`loramux.testing.ResolverContract`.

    Every test wants a new resolver, because a resolver works in one event loop and every test has
    its own. What it reads from (a directory, a server) may be shared between tests, unless
    ``change_adapter``, ``slow_store`` or ``lose_store`` leave traces in it.
    """

    seconds = 10.0
    """How long one answer may take."""

    callers = 32
    """How many ask at the same moment."""

    @pytest.fixture
    def resolver(self) -> LoRAResolver:
        """To be overridden: a new resolver that has an adapter ``known_name``."""
        raise NotImplementedError("give your test class a fixture that is called resolver")

    @pytest.fixture
    def known_name(self) -> str:
        """To be overridden: the name of an adapter that it has."""
        raise NotImplementedError("give your test class a fixture that is called known_name")

    @pytest.fixture
    def unknown_name(self, known_name: str) -> str:
        """A name that is well formed, and that of no adapter."""
        return f"{known_name}-that-nobody-has"

    @pytest.fixture
    def base_model_name(self) -> str:
        """The base model for which adapters are looked up."""
        return "base"

    @pytest.fixture
    def change_adapter(self) -> Callable[[], None]:
        """Puts other bytes under ``known_name``, as somebody who trained it again would."""
        pytest.skip("give a fixture change_adapter to test that new bytes are noticed")

    @pytest.fixture
    def slow_store(self) -> Callable[[float], None]:
        """``slow_store(seconds)`` lets what the resolver reads from take that long to answer."""
        pytest.skip("give a fixture slow_store to test that slowness is not taken for absence")

    @pytest.fixture
    def lose_store(self) -> Callable[[], None]:
        """Takes away what the resolver reads from: unmounts it, or ends its server."""
        pytest.skip("give a fixture lose_store to test that failure is not taken for absence")

    @pytest.fixture
    def ask(self, resolver: LoRAResolver, base_model_name: str) -> Iterator[Asker]:
        """``ask(name)`` is the resolver's answer."""
        asker = Asker(resolver, base_model_name, self.seconds)
        yield asker
        asker.close()

    @pytest.fixture
    def found(self, ask: Asker, known_name: str) -> LoRARequest:
        """What the resolver says of ``known_name``."""
        answer = ask(known_name)
        assert answer is not None, f"the resolver has no adapter {known_name!r}"
        return answer

    @pytest.fixture
    def source(self, found: LoRARequest) -> AdapterSource:
        """Where ``known_name`` is to be fetched from."""
        if found.source is None:
            pytest.skip("the resolver finds adapters in directories; there is nothing to fetch")
        return found.source

    @pytest.fixture
    def chain(self, resolver: LoRAResolver) -> Iterator[ResolverChain]:
        """The resolver as a server has it: in a thread of its own, with a deadline."""
        named = NamedResolver.of("resolver under test", resolver)
        chain = ResolverChain([named], ResolverRegistry(), timeout=self.seconds, negative_ttl=0)
        yield chain
        chain.close()
