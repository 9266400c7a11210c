"""Which adapter names are served, and how each came to be."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count

from loramux import env
from loramux.errors import AdapterRefusedError, InvalidRequestError, ModelNotFoundError
from loramux.lora.request import LoRARequest
from loramux.lora.resolve.catalog_entry import CatalogEntry, Use, uses_by_name
from loramux.lora.resolve.deadline import resolve_timeout
from loramux.lora.resolve.failure_log import ResolverFailures
from loramux.lora.resolve.found_entries import FoundEntries, Key
from loramux.lora.resolve.path_checks import PathChecks
from loramux.lora.resolve.search import AdapterSearch, Load, MayUse, ResolverChain, may_use_all
from loramux.lora.resolve.single_flight import SingleFlight
from loramux.lora.source import AdapterSource
from loramux.observability.distribution import Distribution

DEFAULT_CAPACITY = 4096
"""Names found by resolvers that are remembered; an entry is small, its weights live elsewhere."""


@dataclass(frozen=True)
class AdapterModule:
    """An adapter that an operator registers: ``--lora-modules``, or a request to load one."""

    name: str
    path: str
    base_model_name: str | None = None
    source: AdapterSource | None = None
    allowed_directories: tuple[str, ...] = ()


def recheck_seconds_from_environment() -> float:
    """Seconds a found name is trusted: ``LORAMUX_LORA_RECHECK_SECONDS``, or 5; 0 asks each time.

    Raises:
        EnvironmentVariableError: the variable holds no such number.
    """
    return env.read_seconds("LORAMUX_LORA_RECHECK_SECONDS", 5.0, zero_allowed=True)


class AdapterCatalog:
    """Names that operators register, and a bounded table of names that resolvers found.

    A found name is remembered for the caller who asked and for nobody else, because a resolver
    may answer callers differently. Nothing is remembered of a search that failed or was
    cancelled.

    A found name is believed for ``recheck_seconds``; whoever asks for it after that waits for
    the resolvers to be asked again. So new bytes and withdrawn rights are noticed, and for a
    directory the resolver checks anew that it lies where it may. While resolvers cannot tell,
    what they said before stands.

    Args:
        base_model_name: the base model, as resolvers know it.
        base_names: names that belong to the base model and can be no adapter's.
        load: called with each adapter before it becomes known.
        resolvers: asked for unknown names; None where no adapters are served.
        capacity: found names that are remembered, the least recently used leaving first.
        timeout: seconds a search may take, loading included; see ``resolve_timeout``.
        recheck_seconds: see ``recheck_seconds_from_environment``.
        paths: looks at directories.

    Raises:
        EnvironmentVariableError: a variable is needed and cannot be read.
    """

    def __init__(
        self,
        base_model_name: str,
        base_names: list[str],
        load: Load,
        resolvers: ResolverChain | None,
        *,
        capacity: int = DEFAULT_CAPACITY,
        timeout: float | None = None,
        recheck_seconds: float | None = None,
        paths: PathChecks | None = None,
    ) -> None:
        if timeout is None:
            timeout = resolve_timeout()
        if recheck_seconds is None:
            recheck_seconds = recheck_seconds_from_environment()
        self._base_names = base_names
        self._resolvers = resolvers
        self._recheck_seconds = recheck_seconds
        self._paths = paths or PathChecks()
        self._search = AdapterSearch(base_model_name, load, resolvers, self._paths, timeout)
        self._registered: dict[str, CatalogEntry] = {}
        self._found = FoundEntries(capacity)
        self._searches: SingleFlight[CatalogEntry] = SingleFlight()
        self._int_ids = count(1)

    def known(self, name: str, caller: str | None = None) -> CatalogEntry | None:
        """The entry of a name this caller can use without a search."""
        return self._registered.get(name) or self._found.get((name, caller))

    def entries(self, caller: str | None = None) -> list[CatalogEntry]:
        """What this caller can use without a search, registered adapters first."""
        return [*self._registered.values(), *self.found(caller)]

    def found(self, caller: str | None = None) -> list[CatalogEntry]:
        """What resolvers found for this caller, the least recently used first."""
        return self._found.of(caller)

    def uses(self) -> dict[str, Use]:
        """How each name that is known was used, by all callers together."""
        return uses_by_name([*self._registered.values(), *self._found])

    @property
    def resolve_seconds(self) -> Distribution:
        """What asking the resolvers took, whatever they answered."""
        return self._search.resolve_seconds

    @property
    def num_joins(self) -> int:
        """Requests that joined a search which was under way for another."""
        return self._searches.num_joins

    def resolver_failures(self) -> Sequence[ResolverFailures]:
        """How each resolver has been doing; nothing where none is asked."""
        return () if self._resolvers is None else self._resolvers.failures()

    async def find(
        self, name: str, caller: str | None = None, may_use: MayUse = may_use_all
    ) -> tuple[CatalogEntry, bool]:
        """The adapter of that name, and whether it had to be searched for.

        Callers who ask for the same name at the same time share one search.

        Args:
            may_use: which names are this caller's; what is linked to another one is not found.

        Raises:
            ModelNotFoundError: nobody has it.
            AdapterUnavailableError: it may exist, and its source does not answer.
            AdapterRefusedError: it exists and cannot be served.
        """
        if registered := self._registered.get(name):
            return registered, False
        key = (name, caller)
        if known := await self._still_there(key):
            if time.monotonic() - known.checked_at < self._recheck_seconds:
                return known, False
            entry = await self._searches.run(key, lambda: self._recheck(key, known, may_use))
            return entry, entry.lora_request is not known.lora_request
        if self._resolvers is None:
            raise self.unknown(name)
        return await self._searches.run(key, lambda: self._find_new(key, may_use)), True

    async def register(self, module: AdapterModule, *, load_inplace: bool = False) -> None:
        """Load an adapter and serve it under its name from then on.

        Raises:
            InvalidRequestError: the name is taken.
            AdapterRefusedError: it cannot be served.
            AdapterUnavailableError: its source does not answer, or not in time.
        """
        self._check_free(module.name, load_inplace)
        entry = await self._loaded(module, load_inplace)
        self._check_free(module.name, load_inplace)  # may have been taken in the meantime
        self._found.forget_all(module.name)
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
        if not self._found.forget_all(name) and not was_registered:
            raise self.not_loaded(name)

    def forget(self, name: str, caller: str | None) -> bool:
        """Forget what was found for one caller; tells whether nobody else has the name."""
        self._found.forget(name, caller)
        return not self._is_taken(name)

    def unknown(self, name: str) -> ModelNotFoundError:
        """What a client is told of a name nobody has."""
        shown = name if len(name) <= 256 else f"{name[:256]}..."
        return ModelNotFoundError(f"The model `{shown}` does not exist.")

    def not_loaded(self, name: str) -> ModelNotFoundError:
        """What an operator is told of a name that cannot be unloaded."""
        return ModelNotFoundError(f"The lora adapter '{name}' cannot be found.")

    async def _still_there(self, key: Key) -> CatalogEntry | None:
        entry = self._found.get(key)
        if entry is None:
            return None
        if entry.is_directory and not await self._paths.is_directory(entry.lora_request.path):
            self._found.drop(key, entry)
            return None
        self._found.use(key)
        return entry

    async def _loaded(self, module: AdapterModule, load_inplace: bool) -> CatalogEntry:
        request = LoRARequest(
            module.name,
            next(self._int_ids),
            module.path,
            module.base_model_name,
            load_inplace,
            module.source,
            module.allowed_directories,
        )
        return await self._search.load(request)

    async def _find_new(self, key: Key, may_use: MayUse) -> CatalogEntry:
        entry = await self._search.find(*key, may_use)
        self._found.put(key, entry)
        return entry

    async def _recheck(self, key: Key, known: CatalogEntry, may_use: MayUse) -> CatalogEntry:
        _, caller = key
        try:
            checked = await self._search.check(known, caller, may_use)
        except (ModelNotFoundError, AdapterRefusedError):
            self._found.drop(key, known)
            raise
        entry = replace(checked, use=known.use)  # also where the name leads elsewhere by now
        self._found.replace(key, known, entry)  # an operator may have unloaded it meanwhile
        return entry

    def _check_free(self, name: str, load_inplace: bool) -> None:
        if name in self._base_names:
            raise InvalidRequestError(
                f"The lora adapter '{name}' conflicts with a served base model.", "lora_name"
            )
        if self._is_taken(name) and not load_inplace:
            raise InvalidRequestError(
                f"The lora adapter '{name}' has already been loaded. If you want to load the "
                "adapter in place, set 'load_inplace' to True.",
                "lora_name",
            )

    def _is_taken(self, name: str) -> bool:
        return name in self._registered or self._found.has(name)
