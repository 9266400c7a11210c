"""From a name to a loaded adapter, in bounded time, and the same again for a known one."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Protocol

from loramux.errors import AdapterFilesMissingError, AdapterUnavailableError, ModelNotFoundError
from loramux.lora.request import LoRARequest
from loramux.lora.resolve.catalog_entry import CatalogEntry
from loramux.lora.resolve.failure_log import ResolverFailures
from loramux.lora.resolve.path_checks import PathChecks
from loramux.lora.resolve.refusal_log import RefusalLog
from loramux.lora.resolver import ResolveContext
from loramux.observability.distribution import STAGE_SECONDS, Distribution

log = logging.getLogger(__name__)

CHECK_SECONDS = 5.0
"""How long resolvers may think about a name that is served already."""

ASKED_AGAIN = 2
"""Times, for an adapter whose files are not where they were said to be."""


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
    def failures(self) -> Sequence[ResolverFailures]: ...


class LoadedAdapter(Protocol):
    """An adapter that has been read and checked."""

    @property
    def digest(self) -> str: ...


Load = Callable[[LoRARequest], Awaitable[LoadedAdapter]]
"""Reads and checks an adapter, so that the first request does not have to wait for it."""


MayUse = Callable[[str], bool]
"""Whether a caller may use adapters of a name."""


def may_use_all(name: str) -> bool:
    """Whoever no names are kept from."""
    return True


class AdapterSearch:
    """Asks resolvers and loads what they find.

    Args:
        base_model_name: the base model, as resolvers know it.
        load: called with each adapter before it becomes an entry.
        resolvers: whom to ask.
        paths: tells directories of this machine from other paths.
        timeout: seconds one search may take, loading included.
    """

    def __init__(
        self,
        base_model_name: str,
        load: Load,
        resolvers: ResolverChain | None,
        paths: PathChecks,
        timeout: float,
    ) -> None:
        self._base_model_name = base_model_name
        self._load = load
        self._resolvers = resolvers
        self._paths = paths
        self._timeout = timeout
        self.resolve_seconds = Distribution(STAGE_SECONDS)
        """What asking the resolvers took, whatever they answered."""
        self._refusals = RefusalLog()

    async def load(self, request: LoRARequest) -> CatalogEntry:
        """Load an adapter that needs no search.

        Raises:
            AdapterRefusedError: it cannot be served.
            AdapterUnavailableError: its source does not answer, or not in time.
        """
        started = time.perf_counter()
        async with self._attempt(request.name, self._timeout):
            digest = (await self._load(request)).digest
        seconds = time.perf_counter() - started
        return CatalogEntry(request.name, _lasting(request), digest, search_seconds=seconds)

    async def find(self, name: str, caller: str | None, may_use: MayUse) -> CatalogEntry:
        """Find and load an adapter.

        Raises:
            ModelNotFoundError: nobody has it.
            AdapterRefusedError: it exists and cannot be served.
            AdapterUnavailableError: it may exist, and its source does not answer in time.
        """
        started = time.perf_counter()
        async with self._attempt(name, self._timeout):
            answer = await self._ask(name, caller, may_use)
            try:
                return await self._loaded(name, answer, started)
            except AdapterFilesMissingError:
                return await self._found_again(name, caller, may_use, started)

    async def check(self, known: CatalogEntry, caller: str | None, may_use: MayUse) -> CatalogEntry:
        """What is true of a found name now; ``known`` goes on if nobody can tell.

        An unchanged answer is loaded too, which costs a look at a directory and shows whether
        its bytes have changed in place.

        Raises:
            ModelNotFoundError: nobody has it any more.
            AdapterRefusedError: it can no longer be served, or this caller may not use it.
        """
        started = time.perf_counter()
        try:
            async with self._attempt(known.name, min(self._timeout, CHECK_SECONDS)):
                answer = await self._ask(known.name, caller, may_use)
            async with self._attempt(known.name, self._timeout):
                try:
                    if not _is_same(answer.lora_request, known.lora_request):
                        return await self._loaded(known.name, answer, started)
                    digest = (await self._load(known.lora_request)).digest
                except AdapterFilesMissingError:
                    return await self._found_again(known.name, caller, may_use, started)
        except AdapterUnavailableError as error:
            return _unconfirmed(known, error)
        return replace(
            known,
            digest=digest,
            resolver_name=answer.resolver_name,
            checked_at=time.monotonic(),
            is_unconfirmed=False,
        )

    @asynccontextmanager
    async def _attempt(self, name: str, seconds: float) -> AsyncIterator[None]:
        """Work on an adapter for a limited time, and note it if it is refused."""
        try:
            with self._refusals.noting(name):
                async with asyncio.timeout(seconds):
                    yield
        except TimeoutError as error:
            raise AdapterUnavailableError(
                f"Adapter {name!r} was not ready within {seconds:g} s; try again later."
            ) from error

    async def _ask(self, name: str, caller: str | None, may_use: MayUse) -> Resolution:
        assert self._resolvers is not None
        context = ResolveContext(caller)
        started = time.monotonic()
        try:
            answer = await self._resolvers.resolve(self._base_model_name, name, context=context)
        finally:
            self.resolve_seconds.observe(time.monotonic() - started)
        if not all(map(may_use, answer.lora_request.linked_names)):
            raise ModelNotFoundError(
                f"Adapter {name!r} is linked to one that is not this caller's."
            )
        return answer

    async def _found_again(
        self, name: str, caller: str | None, may_use: MayUse, started: float
    ) -> CatalogEntry:
        """What is true of an adapter that went while it was loaded: it may be elsewhere by now.

        Raises:
            AdapterFilesMissingError: it is nowhere that it was said to be.
        """
        for _ in range(ASKED_AGAIN - 1):
            with suppress(AdapterFilesMissingError):
                return await self._loaded(name, await self._ask(name, caller, may_use), started)
        return await self._loaded(name, await self._ask(name, caller, may_use), started)

    async def _loaded(self, name: str, answer: Resolution, started: float) -> CatalogEntry:
        request = answer.lora_request
        # Beside the load and not after it, which would cost a request two more changes of thread.
        look = asyncio.create_task(self._paths.is_directory(request.path))
        # If the load fails, nobody asks how the look went, which asyncio would complain of.
        look.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            digest = (await self._load(request)).digest
            is_directory = await look
        finally:
            look.cancel()
        return CatalogEntry(
            name,
            _lasting(request),
            digest,
            answer.resolver_name,
            is_directory,
            time.perf_counter() - started,
        )


def _lasting(request: LoRARequest) -> LoRARequest:
    """``load_inplace`` is for one load; kept, it would read the path for every request."""
    return replace(request, load_inplace=False)


def _is_same(answer: LoRARequest, known: LoRARequest) -> bool:
    """The integer id is the resolver's own affair, and may be a new one each time."""
    return replace(_lasting(answer), lora_int_id=known.lora_int_id) == known


def _unconfirmed(known: CatalogEntry, error: AdapterUnavailableError) -> CatalogEntry:
    if not known.is_unconfirmed:
        log.warning("adapter %r is served as it was found before: %s", known.name, error)
    return replace(known, checked_at=time.monotonic(), is_unconfirmed=True)
