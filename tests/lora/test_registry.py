"""Resolvers: making them known, asking them in order, and what a bad one does to the others."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import wraps
from typing import Any

import pytest

from loramux.errors import (
    AdapterRefusedError,
    AdapterUnavailableError,
    LoramuxError,
    ModelNotFoundError,
)
from loramux.lora.request import LoRARequest
from loramux.lora.resolve.failure_log import ResolverFailures
from loramux.lora.resolve.registry import ResolverChain
from loramux.lora.resolver import (
    LoRAResolver,
    LoRAResolverRegistry,
    NamedResolver,
    ResolveContext,
    ResolverRegistry,
    stable_lora_int_id,
)

BASE = "base-model"


def found(name: str, where: str = "/adapters") -> LoRARequest:
    return LoRARequest(name, stable_lora_int_id(name), f"{where}/{name}")


class Scripted(LoRAResolver):
    """Does what its function does, and remembers what it was asked."""

    def __init__(self, behave: Callable[[str], Awaitable[Any]]) -> None:
        self.behave = behave
        self.asked: list[tuple[str, str]] = []

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        self.asked.append((base_model_name, lora_name))
        return await self.behave(lora_name)


class Knows(Scripted):
    """Knows the names it is made with."""

    def __init__(self, *names: str) -> None:
        super().__init__(self.look)
        self.names = names

    async def look(self, lora_name: str) -> LoRARequest | None:
        return found(lora_name) if lora_name in self.names else None


class Fails(Scripted):
    """Raises."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(self.fail)
        self.error = error

    async def fail(self, lora_name: str) -> None:
        raise self.error


def with_chain(
    use: Callable[[ResolverChain], Coroutine[Any, Any, None]],
    resolvers: dict[str, LoRAResolver],
    registry: ResolverRegistry | None = None,
    **options: float,
) -> None:
    """Run ``use`` with a chain of these resolvers, and see its threads end."""
    before = set(threading.enumerate())
    options = {"timeout": 60.0, "negative_ttl": 0.0} | options
    named = [NamedResolver.of(name, resolver) for name, resolver in resolvers.items()]
    chain = ResolverChain(named, registry or ResolverRegistry(), **options)
    try:
        asyncio.run(use(chain))
    finally:
        chain.close()
    for thread in _resolver_threads() - before:
        thread.join(60)  # that of a resolver which was unregistered ends by itself
    assert _resolver_threads() <= before


def _resolver_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("lora-")}


# --- making resolvers known -------------------------------------------------------------------


def test_the_process_has_one_registry_under_the_documented_name():
    resolver = Knows()
    LoRAResolverRegistry.register_resolver("of_this_test", resolver)
    try:
        assert LoRAResolverRegistry.get_resolver("of_this_test") is resolver
        assert "of_this_test" in LoRAResolverRegistry.get_supported_resolvers()
    finally:
        LoRAResolverRegistry.unregister_resolver("of_this_test")
    assert "of_this_test" not in LoRAResolverRegistry.get_supported_resolvers()


def test_an_unknown_resolver_names_the_known_ones():
    registry = ResolverRegistry()
    registry.register_resolver("a", Knows())
    registry.register_resolver("b", Knows())
    for act in (registry.get_resolver, registry.unregister_resolver):
        with pytest.raises(KeyError, match="no LoRA resolver is registered as 'x'; registered: a"):
            act("x")
    assert list(registry.get_supported_resolvers()) == ["a", "b"]


class NotAsync(LoRAResolver):
    """Forgets ``async``."""

    def resolve_lora(self, base_model_name: str, lora_name: str) -> Any:
        return found(lora_name)


def handed_on(function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """A decorator that is no coroutine function, and returns what one returns."""

    @wraps(function)
    def call(*arguments: Any) -> Awaitable[Any]:
        return function(*arguments)

    return call


class Decorated(LoRAResolver):
    @handed_on
    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        return found(lora_name)


def test_a_resolver_that_forgets_async_is_refused_as_it_is_registered():
    with pytest.raises(
        TypeError,
        match=r"^resolve_lora of the LoRA resolver 'hasty' \(NotAsync\) is a plain function; "
        r"define it with `async def`\.$",
    ):
        ResolverRegistry().register_resolver("hasty", NotAsync())


def test_a_decorated_resolver_is_none_that_forgets_async():
    registry = ResolverRegistry()
    registry.register_resolver("decorated", Decorated())
    (named,) = registry.snapshot()
    assert asyncio.run(named.ask(BASE, "x", ResolveContext())) == found("x")


def test_a_taken_name_is_refused_unless_it_is_the_same_object():
    registry, first = ResolverRegistry(), Knows()
    registry.register_resolver("name", first)
    registry.register_resolver("name", first)
    with pytest.raises(ValueError, match="the LoRA resolver name 'name' is taken by"):
        registry.register_resolver("name", Knows())
    assert registry.get_resolver("name") is first


@pytest.mark.parametrize("wrong", [Knows, object(), None, lambda base, name: None])
def test_what_is_no_resolver_is_refused(wrong):
    registry = ResolverRegistry()
    with pytest.raises(TypeError, match=r"registered as LoRA resolver 'name' is .*; register"):
        registry.register_resolver("name", wrong)
    assert not registry.get_supported_resolvers()


def test_an_incomplete_resolver_cannot_be_made():
    with pytest.raises(TypeError, match="resolve_lora"):
        LoRAResolver()


@dataclass
class WithoutHash(LoRAResolver):
    """A dataclass compares by value and has no hash."""

    place: str = "here"

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        return found(lora_name, self.place)


def test_a_resolver_needs_no_hash_and_may_equal_another():
    async def use(chain: ResolverChain) -> None:
        assert (await chain.resolve(BASE, "x")).resolver_name == "a"

    with_chain(use, {"a": WithoutHash(), "b": WithoutHash()})


def test_ids_are_the_same_in_every_process():
    assert stable_lora_int_id("sql-lora") == 3673747315869611865
    names = [f"adapter-{number}" for number in range(1000)]
    ids = {stable_lora_int_id(name) for name in names}
    assert len(ids) == 1000
    assert all(0 < number < 2**63 for number in ids)


# --- asking in order --------------------------------------------------------------------------


def test_the_first_that_has_it_answers_and_the_rest_is_not_asked():
    no, yes, unasked = Knows(), Knows("x"), Knows("x")

    async def use(chain: ResolverChain) -> None:
        resolved = await chain.resolve(BASE, "x")
        assert resolved.resolver_name == "yes"
        assert resolved.lora_request == found("x")

    with_chain(use, {"no": no, "yes": yes, "unasked": unasked})
    assert no.asked == yes.asked == [(BASE, "x")]
    assert unasked.asked == []


def test_nobody_has_it():
    async def use(chain: ResolverChain) -> None:
        with pytest.raises(ModelNotFoundError, match="no resolver knows an adapter 'x'"):
            await chain.resolve(BASE, "x")
        assert not any(resolver.total for resolver in chain.failures())

    with_chain(use, {"a": Knows("y"), "b": Knows()})


def test_nobody_is_there_to_ask():
    async def use(chain: ResolverChain) -> None:
        with pytest.raises(ModelNotFoundError, match="no resolver is active"):
            await chain.resolve(BASE, "x")

    with_chain(use, {})


@pytest.mark.parametrize(
    "name", ["", "x" * 513, "a\x00b", "a\nb", "a\x1b[31m", "\x7f", "a\u202eb", "\ud800"]
)
def test_impossible_names_reach_no_resolver(name):
    resolver = Knows(name)

    async def use(chain: ResolverChain) -> None:
        with pytest.raises(ModelNotFoundError) as refusal:
            await chain.resolve(BASE, name)
        assert str(refusal.value).isprintable()
        assert len(str(refusal.value)) < 200

    with_chain(use, {"a": resolver})
    assert resolver.asked == []


@pytest.mark.parametrize(
    "name", ["x" * 512, "org/name", "ft:base:org::id", "näme with blanks", "名"]
)
def test_possible_names_do(name):
    async def use(chain: ResolverChain) -> None:
        assert (await chain.resolve(BASE, name)).lora_request.lora_name == name

    with_chain(use, {"a": Knows(name)})


def test_resolvers_registered_by_code_come_after_the_plugins_and_are_looked_up_live():
    registry, early, late = ResolverRegistry(), Knows("both"), Knows("late", "both")

    async def use(chain: ResolverChain) -> None:
        with pytest.raises(ModelNotFoundError):
            await chain.resolve(BASE, "late")
        registry.register_resolver("late", late)
        assert (await chain.resolve(BASE, "late")).resolver_name == "late"
        assert (await chain.resolve(BASE, "both")).resolver_name == "early"
        registry.unregister_resolver("late")
        with pytest.raises(ModelNotFoundError):
            await chain.resolve(BASE, "late")

    with_chain(use, {"early": early}, registry, negative_ttl=60)


def test_a_resolver_known_in_both_ways_is_asked_once():
    registry, resolver = ResolverRegistry(), Knows()
    registry.register_resolver("again", resolver)

    async def use(chain: ResolverChain) -> None:
        with pytest.raises(ModelNotFoundError):
            await chain.resolve(BASE, "x")

    with_chain(use, {"once": resolver}, registry)
    assert len(resolver.asked) == 1


# --- bad resolvers ----------------------------------------------------------------------------


async def hang(lora_name: str) -> None:
    await asyncio.sleep(600)


async def block(lora_name: str) -> None:
    time.sleep(1.2)


async def cling(lora_name: str) -> None:
    """Takes no notice of being cancelled, for a while."""
    ending = time.monotonic() + 1.2
    while time.monotonic() < ending:
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            continue


async def rubbish(lora_name: str) -> Any:
    return {"lora_name": lora_name}


def confined(directories: Any) -> Scripted:
    async def resolve(lora_name: str) -> LoRARequest:
        return LoRARequest(lora_name, 1, "/adapters/x", allowed_directories=directories)

    return Scripted(resolve)


class Panic(BaseException):
    """What an extension module may raise."""


BAD = {
    "raising": (lambda: Fails(OSError("secret path")), "raised OSError"),
    "timing out": (lambda: Fails(TimeoutError()), "raised TimeoutError"),
    "not found": (lambda: Fails(ModelNotFoundError("odd")), "raised ModelNotFoundError"),
    "cancelling itself": (lambda: Fails(asyncio.CancelledError()), "cancelled itself"),
    "exiting": (lambda: Fails(SystemExit(1)), "raised RuntimeError"),
    "panicking": (lambda: Fails(Panic()), "raised RuntimeError"),
    "stopping": (lambda: Fails(StopIteration()), "raised RuntimeError"),
    "hanging": (lambda: Scripted(hang), "did not answer within 1 s"),
    "blocking": (lambda: Scripted(block), "did not answer within 1 s"),
    "clinging": (lambda: Scripted(cling), "did not answer within 1 s"),
    "rubbish": (lambda: Scripted(rubbish), "raised TypeError"),
    "confined to a text": (lambda: confined("/adapters"), "raised InvalidRequestError"),
    "confined to a list": (lambda: confined(["/adapters"]), "raised InvalidRequestError"),
    "confined somewhere": (lambda: confined(("adapters",)), "raised InvalidRequestError"),
}


@pytest.fixture(params=BAD)
def bad(request: pytest.FixtureRequest) -> tuple[LoRAResolver, str]:
    make, complaint = BAD[request.param]
    return make(), complaint


def test_a_bad_resolver_hides_no_good_one(bad, caplog):
    resolver, complaint = bad

    async def use(chain: ResolverChain) -> None:
        assert (await chain.resolve(BASE, "x")).resolver_name == "good"
        assert chain.failures()[0] == ResolverFailures("bad", total=1, in_a_row=1)

    # Half of it for the bad one; the good one should need little of the other half.
    seconds = 2 if "did not answer" in complaint else 60
    with_chain(use, {"bad": resolver, "good": Knows("x")}, timeout=seconds)
    assert f"resolver bad {complaint} when asked for adapter 'x'" in caplog.text


def test_where_one_cannot_tell_the_name_may_exist(bad):
    resolver, _ = bad

    async def use(chain: ResolverChain) -> None:
        for _ in range(2):  # such an outcome is not remembered
            with pytest.raises(AdapterUnavailableError) as refusal:
                await chain.resolve(BASE, "x")
        assert "resolver 'bad' " in str(refusal.value)
        assert "secret" not in str(refusal.value)
        assert chain.failures()[1] == ResolverFailures("bad", total=2, in_a_row=2)

    with_chain(use, {"good": Knows("y"), "bad": resolver}, timeout=0.2, negative_ttl=60)


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError


def test_a_resolver_that_goes_on_failing_fills_no_log(caplog):
    resolver = Fails(OSError("disk\nfull"))
    told = (
        (OSError("disk\nfull"), "raised OSError when asked for adapter 'x' (disk full);", True),
        (KeyError("more"), "raised KeyError when asked for adapter 'x' ('more');", False),
        (Unspeakable(), "raised Unspeakable when asked for", False),
        (None, "", False),
        (AdapterUnavailableError("Try again."), "asked for adapter 'x' (Try again.);", False),
        (OSError(), "raised OSError when asked for adapter 'x';", False),
        (None, "", False),
        (AdapterUnavailableError("Again."), "asked for adapter 'x' (Again.);", False),
        (None, "", False),
        (OSError(), "raised OSError when asked for adapter 'x';", True),
    )

    async def use(chain: ResolverChain) -> None:
        for error, words, has_traceback in told:
            caplog.clear()
            resolver.error = error or AdapterRefusedError("gated.")
            with pytest.raises((AdapterUnavailableError, AdapterRefusedError)):
                await chain.resolve(BASE, "x")
            failures = [record for record in caplog.records if record.levelname == "WARNING"]
            assert [words in record.getMessage() for record in failures] == [True] * bool(error)
            assert any(record.exc_info for record in failures) is has_traceback

    with_chain(use, {"flaky": resolver})


def test_that_a_resolver_answers_again_is_told(caplog):
    caplog.set_level("INFO")
    resolver = Fails(OSError())

    async def use(chain: ResolverChain) -> None:
        for _ in range(3):
            with pytest.raises(AdapterUnavailableError):
                await chain.resolve(BASE, "x")
        resolver.error = AdapterRefusedError("gated.")  # it could tell
        for _ in range(2):
            with pytest.raises(AdapterRefusedError):
                await chain.resolve(BASE, "x")
        assert chain.failures() == [ResolverFailures("flaky", total=3, in_a_row=0)]

    with_chain(use, {"flaky": resolver})
    messages = [record.getMessage() for record in caplog.records]
    assert messages[2].endswith("it is passed over (3 in a row)")
    assert messages[3:] == ["resolver flaky answers again, after 3 failures in a row"]


def test_a_blocking_resolver_does_not_hold_up_the_event_loop():
    begun, release = threading.Event(), threading.Event()
    released = []

    async def block_until_released(lora_name: str) -> None:
        begun.set()
        released.append(release.wait(30))

    async def use(chain: ResolverChain) -> None:
        search = asyncio.create_task(chain.resolve(BASE, "x"))
        while not begun.is_set():
            await asyncio.sleep(0.005)
        release.set()
        await asyncio.wait([search])
        assert isinstance(search.exception(), ModelNotFoundError)

    with_chain(use, {"blocking": Scripted(block_until_released)})
    assert released == [True]


def test_a_blocking_resolver_is_not_waited_for_again_and_again():
    release = threading.Event()

    async def block_until_released(lora_name: str) -> None:
        release.wait(60)

    async def use(chain: ResolverChain) -> None:
        with pytest.raises(AdapterUnavailableError, match="did not answer"):
            await chain.resolve(BASE, "x")
        await asyncio.sleep(0.35)
        with pytest.raises(AdapterUnavailableError, match="is blocked by an earlier look-up"):
            await chain.resolve(BASE, "y")
        release.set()
        chain._timeout = 60
        with pytest.raises(ModelNotFoundError):
            await chain.resolve(BASE, "y")

    with_chain(use, {"blocking": Scripted(block_until_released)}, timeout=0.3)


def test_look_ups_of_one_resolver_are_bounded(monkeypatch):
    monkeypatch.setattr("loramux.lora.resolve.registry.MAX_UNFINISHED", 3)

    async def use(chain: ResolverChain) -> None:
        searches = [asyncio.create_task(chain.resolve(BASE, f"x{i}")) for i in range(3)]
        await asyncio.sleep(0.05)
        with pytest.raises(AdapterUnavailableError, match="has 3 look-ups under way"):
            await chain.resolve(BASE, "one too many")
        for search in searches:
            search.cancel()
        await asyncio.wait(searches)

    with_chain(use, {"hanging": Scripted(hang)})


def test_quick_resolvers_leave_their_time_to_slow_ones():
    slow = AsksWho("ann")

    async def use(chain: ResolverChain) -> None:
        await chain.resolve(BASE, "x", context=ResolveContext("ann"))
        (context,) = slow.contexts
        assert 300 < context.deadline - time.monotonic() <= 600

    with_chain(use, {"a": Knows(), "b": Knows(), "slow": slow}, timeout=600)


def test_a_resolver_keeps_its_event_loop_between_look_ups():
    loops = []

    async def note(lora_name: str) -> None:
        loops.append((asyncio.get_running_loop(), threading.current_thread().name))

    async def use(chain: ResolverChain) -> None:
        for name in "xyz":
            with pytest.raises(ModelNotFoundError):
                await chain.resolve(BASE, name)
        assert loops == [loops[0]] * 3
        assert loops[0][0] is not asyncio.get_running_loop()
        assert loops[0][1] == "lora-resolver-noting"

    with_chain(use, {"noting": Scripted(note)})


def test_unregistering_gives_up_what_the_resolver_is_doing():
    registry = ResolverRegistry()
    registry.register_resolver("hanging", Scripted(hang))

    async def use(chain: ResolverChain) -> None:
        search = asyncio.create_task(chain.resolve(BASE, "x"))
        await asyncio.sleep(0.02)
        registry.unregister_resolver("hanging")
        with pytest.raises(ModelNotFoundError):
            await chain.resolve(BASE, "y")
        with pytest.raises(AdapterUnavailableError, match="cancelled itself"):
            await search

    with_chain(use, {}, registry)


# --- many callers -----------------------------------------------------------------------------


def test_a_hundred_callers_of_an_unknown_name_make_one_look_up():
    async def slowly_no(lora_name: str) -> None:
        await asyncio.sleep(0.02)

    resolver = Scripted(slowly_no)

    async def use(chain: ResolverChain) -> None:
        searches = (chain.resolve(BASE, "x") for _ in range(100))
        outcomes = await asyncio.gather(*searches, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {ModelNotFoundError}

    with_chain(use, {"a": resolver})
    assert len(resolver.asked) == 1


def test_a_hundred_callers_share_a_failure():
    async def slowly_fail(lora_name: str) -> None:
        await asyncio.sleep(0.02)
        raise OSError

    resolver = Scripted(slowly_fail)

    async def use(chain: ResolverChain) -> None:
        searches = (chain.resolve(BASE, "x") for _ in range(100))
        outcomes = await asyncio.gather(*searches, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {AdapterUnavailableError}
        assert chain.failures() == [ResolverFailures("a", total=1, in_a_row=1)]

    with_chain(use, {"a": resolver})
    assert len(resolver.asked) == 1


def test_different_names_are_looked_up_side_by_side():
    begun = []

    async def yes_when_all_have_begun(lora_name: str) -> LoRARequest:
        begun.append(lora_name)
        while len(begun) < 50:
            await asyncio.sleep(0.005)
        return found(lora_name)

    async def use(chain: ResolverChain) -> None:
        await asyncio.gather(*(chain.resolve(BASE, f"x{i}") for i in range(50)))

    with_chain(use, {"a": Scripted(yes_when_all_have_begun)})


class Endless(LoRAResolver):
    """Waits, and tells when it is cancelled."""

    def __init__(self) -> None:
        self.started, self.cancelled = threading.Event(), threading.Event()

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> None:
        self.started.set()
        try:
            await asyncio.sleep(600)
        finally:
            self.cancelled.set()


def test_cancellation_reaches_the_caller_and_the_resolver():
    endless, unasked = Endless(), Knows("x")

    async def use(chain: ResolverChain) -> None:
        searches = [asyncio.create_task(chain.resolve(BASE, "x")) for _ in range(2)]
        await asyncio.to_thread(endless.started.wait, 60)
        searches[0].cancel()
        await asyncio.wait(searches[:1])
        await asyncio.sleep(0.05)
        assert searches[0].cancelled()
        assert not searches[1].done()
        assert not endless.cancelled.is_set()
        searches[1].cancel()
        await asyncio.wait(searches)
        assert searches[1].cancelled()
        assert await asyncio.to_thread(endless.cancelled.wait, 60)
        assert not any(resolver.total for resolver in chain.failures())

    with_chain(use, {"endless": endless, "unasked": unasked})
    assert unasked.asked == []


# --- who asks, and until when -----------------------------------------------------------------


class AsksWho(LoRAResolver):
    """Has an adapter for one caller alone."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.contexts: list[ResolveContext] = []

    async def resolve_lora(
        self, base_model_name: str, lora_name: str, *, context: ResolveContext | None = None
    ) -> LoRARequest | None:
        assert context is not None
        self.contexts.append(context)
        await asyncio.sleep(0.02)
        return found(lora_name) if context.caller == self.owner else None


def test_a_resolver_learns_who_asks_if_it_wants_to():
    resolver, plain = AsksWho("ann"), Knows()

    async def use(chain: ResolverChain) -> None:
        await chain.resolve(BASE, "x", context=ResolveContext("ann"))
        (context,) = resolver.contexts
        assert context.caller == "ann"
        assert 0 < context.deadline - time.monotonic() <= 60

    with_chain(use, {"plain": plain, "a": resolver})
    assert plain.asked == [(BASE, "x")]


def test_callers_do_not_share_where_an_answer_may_depend_on_them():
    resolver = AsksWho("ann")

    async def use(chain: ResolverChain) -> None:
        def ask(who: str) -> Awaitable[Any]:
            return chain.resolve(BASE, "x", context=ResolveContext(who))

        first = await asyncio.gather(ask("bob"), ask("ann"), ask("ann"), return_exceptions=True)
        assert isinstance(first[0], ModelNotFoundError)
        assert first[1].lora_request == first[2].lora_request == found("x")
        with pytest.raises(ModelNotFoundError):
            await ask("bob")
        assert (await ask("ann")).lora_request == found("x")

    with_chain(use, {"a": resolver}, negative_ttl=60)
    assert [context.caller for context in resolver.contexts] == ["bob", "ann", "ann"]


def test_callers_do_share_where_no_answer_depends_on_them():
    resolver = Knows()

    async def use(chain: ResolverChain) -> None:
        for who in ("ann", "bob"):
            with pytest.raises(ModelNotFoundError):
                await chain.resolve(BASE, "x", context=ResolveContext(who))

    with_chain(use, {"a": resolver}, negative_ttl=60)
    assert len(resolver.asked) == 1


def test_a_caller_in_a_hurry_leaves_the_others_their_search():
    release = threading.Event()

    async def yes_when_released(lora_name: str) -> LoRARequest:
        while not release.is_set():
            await asyncio.sleep(0.005)
        return found(lora_name)

    async def use(chain: ResolverChain) -> None:
        patient = asyncio.create_task(chain.resolve(BASE, "x"))
        soon = ResolveContext(deadline=time.monotonic() + 0.05)
        with pytest.raises(AdapterUnavailableError, match="before the request's deadline"):
            await chain.resolve(BASE, "x", context=soon)
        release.set()
        assert (await patient).lora_request == found("x")
        assert not any(resolver.total for resolver in chain.failures())

    with_chain(use, {"a": Scripted(yes_when_released)})


def test_without_a_deadline_a_caller_waits_as_long_as_the_search_lasts():
    assert ResolveContext().deadline == math.inf


# --- what is remembered -----------------------------------------------------------------------


def test_an_unknown_name_is_asked_for_again_when_its_time_is_up():
    resolver = Knows()

    async def use(chain: ResolverChain) -> None:
        with pytest.raises(ModelNotFoundError):
            await chain.resolve(BASE, "x")
        resolver.names = ("x",)
        await asyncio.sleep(0.06)
        assert (await chain.resolve(BASE, "x")).lora_request == found("x")

    with_chain(use, {"a": resolver}, negative_ttl=0.05)


def test_an_unknown_name_is_not_asked_for_again_before():
    resolver = Knows()

    async def use(chain: ResolverChain) -> None:
        for _ in range(3):
            with pytest.raises(ModelNotFoundError):
                await chain.resolve(BASE, "x")

    with_chain(use, {"a": resolver}, negative_ttl=60)
    assert len(resolver.asked) == 1


def test_a_miss_is_one_of_its_base_model_alone():
    resolver = Knows()

    async def use(chain: ResolverChain) -> None:
        for base in ("one", "two"):
            with pytest.raises(ModelNotFoundError):
                await chain.resolve(base, "x")

    with_chain(use, {"a": resolver}, negative_ttl=60)
    assert resolver.asked == [("one", "x"), ("two", "x")]


def test_an_answer_is_not_remembered():
    resolver = Knows("x")

    async def use(chain: ResolverChain) -> None:
        await chain.resolve(BASE, "x")
        await chain.resolve(BASE, "x")

    with_chain(use, {"a": resolver}, negative_ttl=60)
    assert len(resolver.asked) == 2


def test_unknown_names_leave_memory_flat():
    class Nothing(LoRAResolver):
        async def resolve_lora(self, base_model_name: str, lora_name: str) -> None:
            return None

    async def ask_for(chain: ResolverChain, names: range) -> None:
        for number in names:
            with pytest.raises(ModelNotFoundError):
                await chain.resolve(BASE, f"unknown-{number}")

    async def use(chain: ResolverChain) -> None:
        chain._misses._capacity = 100
        await ask_for(chain, range(300))
        tracemalloc.start()
        await ask_for(chain, range(300, 600))
        gc.collect()  # what an exception's traceback refers to goes only then
        middle, _ = tracemalloc.get_traced_memory()
        await ask_for(chain, range(600, 1800))
        gc.collect()
        end, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert end - middle < 20_000
        assert len(chain._misses) == 100
        assert len(chain._flights) == 0

    with_chain(use, {"a": Nothing()}, negative_ttl=60)


# --- settings ---------------------------------------------------------------------------------


def test_the_environment_sets_the_times(monkeypatch):
    monkeypatch.setenv("LORAMUX_LORA_RESOLVE_TIMEOUT", "0.05")
    monkeypatch.setenv("LORAMUX_LORA_NEGATIVE_TTL", "0")
    hanging = ResolverChain([NamedResolver.of("h", Scripted(hang))])
    no = Knows()
    quick = ResolverChain([NamedResolver.of("no", no)], timeout=60)

    async def use() -> None:
        started = time.monotonic()
        with pytest.raises(AdapterUnavailableError):
            await hanging.resolve(BASE, "x")
        assert time.monotonic() - started < 30, "it took as long as without the variable"
        for _ in range(2):
            with pytest.raises(ModelNotFoundError):
                await quick.resolve(BASE, "x")

    try:
        asyncio.run(use())
    finally:
        hanging.close()
        quick.close()
    assert len(no.asked) == 2


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LORAMUX_LORA_RESOLVE_TIMEOUT", "0"),
        ("LORAMUX_LORA_RESOLVE_TIMEOUT", "soon"),
        ("LORAMUX_LORA_RESOLVE_TIMEOUT", "inf"),
        ("LORAMUX_LORA_NEGATIVE_TTL", "-1"),
        ("LORAMUX_LORA_NEGATIVE_TTL", "nan"),
    ],
)
def test_a_time_that_is_none_is_refused_by_name(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(LoramuxError, match=f"{variable} is '{value}'; set it to a number of sec"):
        ResolverChain()


def test_one_chain_serves_one_event_loop_after_another():
    resolver = Knows("x")
    chain = ResolverChain([NamedResolver.of("a", resolver)], ResolverRegistry(), negative_ttl=0)
    try:
        for _ in range(2):
            assert asyncio.run(chain.resolve(BASE, "x")).lora_request == found("x")
    finally:
        chain.close()


def test_a_refusal_is_told_as_it_is_unless_another_resolver_has_the_adapter():
    refusing = Fails(AdapterRefusedError("the token is not accepted; set another."))

    async def use(chain: ResolverChain) -> None:
        assert (await chain.resolve(BASE, "public")).resolver_name == "second"
        with pytest.raises(AdapterRefusedError, match="the token is not accepted"):
            await chain.resolve(BASE, "gated")
        assert not any(resolver.total for resolver in chain.failures())

    with_chain(use, {"first": refusing, "second": Knows("public")})
