"""How a name becomes an adapter: what a resolver is, and the two ways to make one known.

A plugin implements the hook :meth:`LoRAResolverSpec.register_lora_resolvers`; a program that has no
plugin calls ``LoRAResolverRegistry.register_resolver``. Both end in the same list, which
:class:`loramux.lora.resolve.registry.ResolverChain` asks in order.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, KeysView
from dataclasses import dataclass

import pluggy

from loramux.lora.request import LoRARequest

hookspec = pluggy.HookspecMarker("loramux")
hookimpl = pluggy.HookimplMarker("loramux")
"""Marks a function of a plugin as the implementation of a hook."""


@dataclass(frozen=True)
class ResolveContext:
    """Who asks, and until when an answer is of use."""

    caller: str | None = None
    """Identity of the caller as the server established it; None where it knows none.

    The name of the API key where it has one (``--api-keys-file``), else the first sixteen
    hexadecimal digits of the key's SHA-256.
    """
    deadline: float = math.inf
    """Time of :func:`time.monotonic` after which the answer is no longer waited for."""


class LoRAResolver(ABC):
    """Finds adapters by name.

    ``resolve_lora`` runs in an event loop and a thread that belong to this resolver alone, the
    same ones each time: clients that are bound to an event loop may be kept between calls, and
    a call that blocks holds up this resolver's other calls and nothing else.
    """

    @abstractmethod
    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        """Find the adapter ``lora_name`` for ``base_model_name``.

        The name comes from a client and may be anything printable of up to 512 characters; it
        is for the resolver to make sure that it leads nowhere it should not.

        An override may take a third parameter, ``context``, and is then given a
        :class:`ResolveContext` under that name.

        Returns:
            Where the adapter is, or None if this resolver does not have it. None lets the next
            resolver answer.

        Raises:
            Exception: if the resolver cannot tell, for instance because its store does not
                answer. The next resolver is asked then too; if none has the adapter, the client
                learns that it should try again, and not that the adapter does not exist.
        """


class LoRAResolverSpec:
    """The hooks that loramux calls in its plugins."""

    @hookspec
    def register_lora_resolvers(self, register: Callable[[str, LoRAResolver], None]) -> None:
        """Call ``register(name, resolver)`` for each resolver that this plugin offers.

        Called once, when an engine starts. The names must be new: ``register`` raises ValueError
        for one that another plugin has taken. Raise :class:`loramux.errors.PluginError` if the
        operator has configured something that cannot work; it ends the start.
        """


@dataclass(frozen=True, eq=False)
class NamedResolver:
    """A resolver under the name by which it is registered, logged and counted.

    Equal to itself alone: a resolver may be of a class that has no hash.
    """

    name: str
    resolver: LoRAResolver
    takes_context: bool

    @classmethod
    def of(cls, name: str, resolver: LoRAResolver) -> NamedResolver:
        """Name a resolver, after a look at what it is.

        Raises:
            TypeError: if it is no resolver, for instance the class instead of an instance, or its
                ``resolve_lora`` is no coroutine function.
        """
        if not isinstance(resolver, LoRAResolver):
            raise TypeError(
                f"the object registered as LoRA resolver {name!r} is {resolver!r}; "
                "register an instance of a class that inherits from LoRAResolver."
            )
        if _is_plain_function(resolver.resolve_lora):
            raise TypeError(
                f"resolve_lora of the LoRA resolver {name!r} ({type(resolver).__name__}) is a "
                "plain function; define it with `async def`."
            )
        parameters = inspect.signature(resolver.resolve_lora).parameters
        return cls(name, resolver, takes_context="context" in parameters)

    async def ask(
        self, base_model_name: str, lora_name: str, context: ResolveContext
    ) -> LoRARequest | None:
        """Ask the resolver, with the context if it takes one.

        Raises:
            TypeError: if its answer is neither a LoRARequest nor None.
            Exception: whatever the resolver raises.
        """
        # The override may take context; the base class, whose type mypy sees, does not.
        more = {"context": context} if self.takes_context else {}
        answer = await self.resolver.resolve_lora(base_model_name, lora_name, **more)
        if answer is None or isinstance(answer, LoRARequest):
            return answer
        raise TypeError(f"resolve_lora returned {type(answer).__name__}, not LoRARequest or None")


def _is_plain_function(method: Callable[..., object]) -> bool:
    """Whether a call returns no coroutine, as far as that can be seen without calling it."""
    function = inspect.unwrap(method)  # a decorator may hand on what an async function returns
    return inspect.isroutine(function) and not inspect.iscoroutinefunction(function)


class ResolverRegistry:
    """Resolvers that code made known in this process, in the order in which it did."""

    def __init__(self) -> None:
        self._resolvers: dict[str, NamedResolver] = {}

    def register_resolver(self, name: str, resolver: LoRAResolver) -> None:
        """Make a resolver known; it is asked from the next look-up on.

        Registering the same object again is no change. A taken name is refused, because the two
        would hide each other: which of them answered would hang on the order of imports, and a
        wrong one would be found out by nobody. To replace a resolver, unregister it first.

        Raises:
            ValueError: if the name is taken by another resolver.
            TypeError: if ``resolver`` is not an instance of LoRAResolver with an async
                ``resolve_lora``.
        """
        holder = self._resolvers.setdefault(name, NamedResolver.of(name, resolver))
        if holder.resolver is not resolver:
            raise ValueError(
                f"the LoRA resolver name {name!r} is taken by {holder.resolver!r}; "
                "choose another name, or unregister that one first."
            )

    def unregister_resolver(self, name: str) -> None:
        """Forget a resolver; look-ups that it is answering right now are given up.

        Raises:
            KeyError: if there is none of that name.
        """
        self.get_resolver(name)
        del self._resolvers[name]

    def get_resolver(self, name: str) -> LoRAResolver:
        """The resolver registered as ``name``.

        Raises:
            KeyError: if there is none of that name.
        """
        if name not in self._resolvers:
            known = ", ".join(self._resolvers) or "none"
            raise KeyError(f"no LoRA resolver is registered as {name!r}; registered: {known}.")
        return self._resolvers[name].resolver

    def get_supported_resolvers(self) -> KeysView[str]:
        """The registered names, in order, as they are now."""
        return dict(self._resolvers).keys()

    def snapshot(self) -> tuple[NamedResolver, ...]:
        """The registered resolvers, in order, as they are now."""
        return tuple(self._resolvers.values())


LoRAResolverRegistry = ResolverRegistry()
"""The one registry of this process."""


def stable_lora_int_id(lora_name: str) -> int:
    """A positive 63-bit integer that is the same for a name in every process.

    ``hash(lora_name)`` is not: Python salts it anew in each process.
    """
    digest = hashlib.sha256(lora_name.encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:8], "big") >> 1) or 1
