"""Which adapter names are served, and how each came to be."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from loramux.errors import AdapterUnavailableError, InvalidRequestError, ModelNotFoundError
from loramux.lora.request import LoRARequest
from loramux.lora.resolve.deadline import resolve_timeout
from loramux.lora.resolve.single_flight import SingleFlight
from loramux.lora.resolver import ResolveContext

DEFAULT_CAPACITY = 4096
"""Names found by resolvers that are remembered; an entry is small, its weights live elsewhere."""


class Resolution(Protocol):
    """A resolver's answer."""

    @property
    def resolver_name(self) -> str: ...
    @property
    def lora_request(self) -> LoRARequest: ...


class ResolverChain(Protocol):
    """Whoever turns a name into an adapter; raises ModelNotFoundError if nobody has it."""

    async def resolve(
        self, base_model_name: str, lora_name: str, *, context: ResolveContext | None = None
    ) -> Resolution: ...


Load = Callable[[LoRARequest], Awaitable[Any]]
"""Reads and checks an adapter, so that the first request does not have to wait for it."""


@dataclass(frozen=True)
class AdapterModule:
    """An adapter that an operator registers: ``--lora-modules``, or a request to load one."""

    name: str
    path: str
    base_model_name: str | None = None


@dataclass(frozen=True)
class CatalogEntry:
    """A name that is served. ``resolver_name`` is None for an adapter registered by name."""

    name: str
    lora_request: LoRARequest
    resolver_name: str | None = None
    is_directory: bool = False
    """Whether the path was a directory of this machine when the adapter was found."""
    search_seconds: float = 0.0
    """How long finding and loading it took."""

    @property
    def found_by(self) -> str:
        return self.resolver_name or "registered"


class AdapterCatalog:
    """Names that operators register, and a bounded table of names that resolvers found.

    A found name is remembered for the caller who asked and for nobody else, because a resolver
    may answer callers differently. Nothing is remembered of a search that failed or was
    cancelled.

    Args:
        base_model_name: the base model, as resolvers know it.
        base_names: names that belong to the base model and can be no adapter's.
        load: called with each adapter before it becomes known.
        resolvers: asked for unknown names; None where no adapters are served.
        capacity: found names that are remembered, the least recently used leaving first.
        timeout: seconds a search may take, loading included; see ``resolve_timeout``.
    """

    def __init__(
        self,
        base_model_name: str,
        base_names: list[str],
        load: Load,
        resolvers: ResolverChain | None,
        capacity: int = DEFAULT_CAPACITY,
        timeout: float | None = None,
    ) -> None:
        self._timeout = resolve_timeout() if timeout is None else timeout
        self._base_model_name = base_model_name
        self._base_names = base_names
        self._load = load
        self._resolvers = resolvers
        self._capacity = capacity
        self._registered: dict[str, CatalogEntry] = {}
        self._found: OrderedDict[tuple[str, str | None], CatalogEntry] = OrderedDict()
        self._searches: SingleFlight[CatalogEntry] = SingleFlight()
        self._int_ids = count(1)

    def known(self, name: str, caller: str | None = None) -> CatalogEntry | None:
        """The entry of a name this caller can use without a search."""
        return self._registered.get(name) or self._found.get((name, caller))

    def entries(self, caller: str | None = None) -> list[CatalogEntry]:
        """What this caller can use without a search, registered adapters first."""
        found = [entry for (_, owner), entry in self._found.items() if owner == caller]
        return [*self._registered.values(), *found]

    async def find(self, name: str, caller: str | None = None) -> tuple[CatalogEntry, bool]:
        """The adapter of that name, and whether it had to be searched for.

        Callers who ask for the same name at the same time share one search.

        Raises:
            ModelNotFoundError: nobody has it.
            AdapterUnavailableError: it may exist, and its source does not answer.
            AdapterRefusedError: it exists and cannot be served.
        """
        if entry := await self._still_there(name, caller):
            return entry, False
        if self._resolvers is None:
            raise self.unknown(name)
        key = (name, caller)
        return await self._searches.run(key, lambda: self._search(name, caller)), True

    async def register(self, module: AdapterModule, *, load_inplace: bool = False) -> None:
        """Load an adapter and serve it under its name from then on.

        Raises:
            InvalidRequestError: the name is taken.
            AdapterRefusedError: it cannot be served.
            AdapterUnavailableError: its source does not answer.
        """
        self._check_free(module.name, load_inplace)
        entry = await self._loaded(module, load_inplace)
        self._check_free(module.name, load_inplace)  # may have been taken in the meantime
        self._forget_found(module.name)
        self._registered[module.name] = entry

    async def register_all(self, modules: Sequence[AdapterModule]) -> None:
        """:meth:`register` for several, loaded side by side and served in the order given."""
        entries = await asyncio.gather(*(self._loaded(module, False) for module in modules))
        for entry in entries:
            self._check_free(entry.name, False)
            self._registered[entry.name] = entry

    def unregister(self, name: str) -> None:
        """Serve the name no more; running requests finish.

        Raises:
            ModelNotFoundError: the name is not known.
        """
        was_registered = self._registered.pop(name, None) is not None
        if not self._forget_found(name) and not was_registered:
            raise ModelNotFoundError(f"The lora adapter '{name}' cannot be found.")

    def unknown(self, name: str) -> ModelNotFoundError:
        """What a client is told of a name nobody has."""
        shown = name if len(name) <= 256 else f"{name[:256]}..."
        return ModelNotFoundError(f"The model `{shown}` does not exist.")

    async def _still_there(self, name: str, caller: str | None) -> CatalogEntry | None:
        if entry := self._registered.get(name):
            return entry
        key = (name, caller)
        entry = self._found.get(key)
        if entry is None:
            return None
        if entry.is_directory and not await asyncio.to_thread(_is_directory, entry.lora_request):
            self._found.pop(key, None)
            return None
        if key in self._found:
            self._found.move_to_end(key)
        return entry

    async def _loaded(self, module: AdapterModule, load_inplace: bool) -> CatalogEntry:
        request = LoRARequest(
            module.name, next(self._int_ids), module.path, module.base_model_name, load_inplace
        )
        started = time.perf_counter()
        await self._load(request)
        seconds = time.perf_counter() - started
        # load_inplace is for this one load; kept, it would read the path for every request
        return CatalogEntry(
            module.name, replace(request, load_inplace=False), search_seconds=seconds
        )

    async def _search(self, name: str, caller: str | None) -> CatalogEntry:
        assert self._resolvers is not None
        started = time.perf_counter()
        context = ResolveContext(caller)
        try:
            async with asyncio.timeout(self._timeout):
                answer = await self._resolvers.resolve(self._base_model_name, name, context=context)
                await self._load(answer.lora_request)
        except TimeoutError as error:
            raise AdapterUnavailableError(
                f"Adapter {name!r} was not ready within {self._timeout:g} s; try again later."
            ) from error
        entry = CatalogEntry(
            name,
            answer.lora_request,
            answer.resolver_name,
            await asyncio.to_thread(_is_directory, answer.lora_request),
            time.perf_counter() - started,
        )
        self._remember((name, caller), entry)
        return entry

    def _remember(self, key: tuple[str, str | None], entry: CatalogEntry) -> None:
        self._found[key] = entry
        self._found.move_to_end(key)
        while len(self._found) > self._capacity:
            self._found.popitem(last=False)

    def _forget_found(self, name: str) -> bool:
        keys = [key for key in self._found if key[0] == name]
        for key in keys:
            del self._found[key]
        return bool(keys)

    def _check_free(self, name: str, load_inplace: bool) -> None:
        if name in self._base_names:
            raise InvalidRequestError(
                f"The lora adapter '{name}' conflicts with a served base model.", "lora_name"
            )
        taken = name in self._registered or any(key[0] == name for key in self._found)
        if taken and not load_inplace:
            raise InvalidRequestError(
                f"The lora adapter '{name}' has already been loaded. If you want to load the "
                "adapter in place, set 'load_inplace' to True.",
                "lora_name",
            )


def _is_directory(request: LoRARequest) -> bool:
    return Path(request.path).expanduser().is_dir()
