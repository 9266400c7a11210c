"""From a name to an adapter: resolvers asked in order, none able to spoil it for the others."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from loramux import env
from loramux.errors import AdapterRefusedError, AdapterUnavailableError, ModelNotFoundError
from loramux.lora.request import LoRARequest
from loramux.lora.resolve.deadline import resolve_timeout
from loramux.lora.resolve.failure_log import FailureLog, ResolverFailures
from loramux.lora.resolve.loop_thread import LoopThread
from loramux.lora.resolve.recent_misses import RecentMisses
from loramux.lora.resolve.single_flight import SingleFlight
from loramux.lora.resolver import (
    LoRAResolverRegistry,
    NamedResolver,
    ResolveContext,
    ResolverRegistry,
)

log = logging.getLogger(__name__)

MAX_NAME_LENGTH = 512
"""Longest adapter name, in characters, for which any resolver is asked."""

MAX_UNFINISHED = 4096
"""Look-ups that one resolver may have under way before it is passed over."""


@dataclass(frozen=True)
class Resolved:
    """An adapter, and which resolver found it."""

    resolver_name: str
    lora_request: LoRARequest


class _ResolverFailure(Exception):
    """A resolver could not tell; the message completes "the resolver ..." and is safe to publish.

    Its cause, which may hold paths and addresses, is for the log alone.
    """


@dataclass(frozen=True)
class _Question:
    """What a look-up is about. Equal questions share an answer."""

    base_model_name: str
    lora_name: str
    caller: str | None


class ResolverChain:
    """Asks resolvers in order until one has the adapter.

    First come the plugins' resolvers, then those that code registered; the latter are looked up
    anew each time, so one registered while the server runs is asked from then on.

    Each resolver works in an event loop and a thread of its own (:class:`LoopThread`): a look-up
    that blocks inside ``async def`` cannot be cancelled, and in the caller's loop it would stop
    every stream of the server. A resolver may use its share of the time that is left: all of it
    divided by the number of resolvers yet to be asked, so quick ones leave more to slow ones.

    Callers that ask for the same name at the same time share one look-up and its outcome, unless
    some resolver takes a context: then only callers of one identity share.

    Args:
        resolvers: the plugins' resolvers, in order.
        registry: where resolvers registered by code are found.
        timeout: seconds for one look-up; ``LORAMUX_LORA_RESOLVE_TIMEOUT`` or 60.
        negative_ttl: seconds for which a name that no resolver knows is answered from memory;
            ``LORAMUX_LORA_NEGATIVE_TTL`` or 2. 0 asks each time.

    Raises:
        EnvironmentVariableError: if one of the variables is needed and cannot be read.
    """

    def __init__(
        self,
        resolvers: Iterable[NamedResolver] = (),
        registry: ResolverRegistry = LoRAResolverRegistry,
        *,
        timeout: float | None = None,
        negative_ttl: float | None = None,
    ) -> None:
        if timeout is None:
            timeout = resolve_timeout()
        if negative_ttl is None:
            negative_ttl = env.read_seconds("LORAMUX_LORA_NEGATIVE_TTL", 2.0, zero_allowed=True)
        self._failures = FailureLog()
        self._from_plugins = tuple(resolvers)
        self._registry = registry
        self._timeout = timeout
        self._current: tuple[NamedResolver, ...] = ()
        self._threads: dict[NamedResolver, LoopThread] = {}
        self._flights: SingleFlight[Resolved] = SingleFlight()
        self._misses = RecentMisses(negative_ttl)

    def failures(self) -> list[ResolverFailures]:
        """How each resolver has been doing, in the order of asking."""
        return [self._failures.of(resolver.name) for resolver in self._refresh()]

    async def resolve(
        self, base_model_name: str, lora_name: str, *, context: ResolveContext | None = None
    ) -> Resolved:
        """Find an adapter.

        Args:
            base_model_name: served name of the base model.
            lora_name: what a client asks for.
            context: who asks; its deadline ends the wait of this caller, not that of others.

        Raises:
            ModelNotFoundError: if every resolver says that it has no such adapter, or the name is
                empty, longer than 512 characters or not printable.
            AdapterRefusedError: if none has it and one found it and may not hand it out.
            AdapterUnavailableError: if none has it and at least one could not tell.
        """
        if not (0 < len(lora_name) <= MAX_NAME_LENGTH and lora_name.isprintable()):
            raise _impossible(lora_name)
        context = context or ResolveContext()
        resolvers = self._refresh()
        takes_context = any(resolver.takes_context for resolver in resolvers)
        caller = context.caller if takes_context else None
        question = _Question(base_model_name, lora_name, caller)
        if question in self._misses:
            raise _not_found(lora_name, resolvers)
        try:
            async with asyncio.timeout(_seconds_until(context.deadline)):
                return await self._flights.run(
                    question, partial(self._look_up, question, resolvers)
                )
        except TimeoutError:
            raise AdapterUnavailableError(
                f"adapter {lora_name!r} was not found before the request's deadline; try again."
            ) from None

    def close(self) -> None:
        """End the resolvers' threads; look-ups under way fail."""
        threads = list(self._threads.items())
        self._threads.clear()
        for _, thread in threads:
            thread.close(timeout=0)
        for resolver, thread in threads:
            if not thread.close():
                log.warning("resolver %s still blocks its thread, which is left", resolver.name)

    def _refresh(self) -> tuple[NamedResolver, ...]:
        """The resolvers of this moment; a change forgets what the former ones led to."""
        known = {id(named.resolver) for named in self._from_plugins}
        added = [named for named in self._registry.snapshot() if id(named.resolver) not in known]
        current = (*self._from_plugins, *added)
        if current != self._current:
            self._current = current
            self._misses.clear()
            for gone in self._threads.keys() - set(current):
                self._threads.pop(gone).close(timeout=0)
        return current

    async def _look_up(self, question: _Question, resolvers: tuple[NamedResolver, ...]) -> Resolved:
        deadline = time.monotonic() + self._timeout
        failures: list[str] = []
        refusal: AdapterRefusedError | None = None
        for position, resolver in enumerate(resolvers):
            share = (deadline - time.monotonic()) / (len(resolvers) - position)
            try:
                answer = await self._ask(resolver, question, share)
            except AdapterRefusedError as error:
                self._failures.answered(resolver.name)
                refusal = refusal or error
                continue
            except _ResolverFailure as failure:
                self._failures.failed(resolver.name, question.lora_name, failure)
                failures.append(f"resolver {resolver.name!r} {failure}")
                continue
            self._failures.answered(resolver.name)
            if answer is not None:
                return Resolved(resolver.name, answer)
        if refusal is not None:
            raise refusal
        if failures:
            raise AdapterUnavailableError(
                f"adapter {question.lora_name!r} could not be looked up, because "
                f"{' and '.join(failures)}; try again later."
            )
        self._misses.add(question)
        raise _not_found(question.lora_name, resolvers)

    async def _ask(
        self, resolver: NamedResolver, question: _Question, share: float
    ) -> LoRARequest | None:
        thread = self._thread_of(resolver)
        context = ResolveContext(question.caller, time.monotonic() + share)
        work = partial(resolver.ask, question.base_model_name, question.lora_name, context)
        try:
            async with asyncio.timeout(share) as limit:
                return await asyncio.wrap_future(thread.run(work))
        except asyncio.CancelledError:
            if _is_being_cancelled():
                raise
            raise _ResolverFailure("cancelled itself") from None
        except AdapterRefusedError:
            raise
        except Exception as error:
            if limit.expired():
                raise _ResolverFailure(f"did not answer within {share:.3g} s") from None
            raise _ResolverFailure(f"raised {type(error).__name__}") from error

    def _thread_of(self, resolver: NamedResolver) -> LoopThread:
        if resolver not in self._current:
            raise _ResolverFailure("was unregistered")
        if resolver not in self._threads:
            self._threads[resolver] = LoopThread(f"lora-resolver-{resolver.name}")
        thread = self._threads[resolver]
        if thread.blocked_for() > self._timeout:
            raise _ResolverFailure("is blocked by an earlier look-up")
        if thread.unfinished >= MAX_UNFINISHED:
            raise _ResolverFailure(f"has {MAX_UNFINISHED} look-ups under way")
        return thread


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _seconds_until(deadline: float) -> float | None:
    return None if math.isinf(deadline) else deadline - time.monotonic()


def _impossible(lora_name: str) -> ModelNotFoundError:
    return ModelNotFoundError(
        f"no adapter can be called {lora_name[:40]!r}{'...' if len(lora_name) > 40 else ''}; "
        f"a name has 1 to {MAX_NAME_LENGTH} printable characters."
    )


def _not_found(lora_name: str, resolvers: tuple[NamedResolver, ...]) -> ModelNotFoundError:
    if not resolvers:
        return ModelNotFoundError(
            f"no adapter {lora_name!r} is loaded, and no resolver is active that could find it; "
            "load it, or see `loramux plugins`."
        )
    return ModelNotFoundError(f"no resolver knows an adapter {lora_name!r}; check the name.")
