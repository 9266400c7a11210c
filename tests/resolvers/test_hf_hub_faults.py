"""A Hub that does not answer, or not properly: the cache is served, or the caller told to retry."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable

import pytest

from loramux.errors import AdapterError, AdapterUnavailableError
from loramux.lora.resolve.registry import ResolverChain
from loramux.lora.resolver import NamedResolver, ResolverRegistry
from loramux_resolvers import hf_hub
from loramux_resolvers.answer_cache import AnswerCache
from tests.resolvers.hub_server import (
    HubServer,
    answer,
    cut,
    drip,
    drop,
    endless_error,
    naming,
    send,
    wait,
)
from tests.resolvers.test_hf_hub import REPO, adapter, ask, fetch, find, resolver

TIMEOUT = 0.6
"""Seconds the Hub is given in these tests, where it is slow."""

Fault = Callable[[HubServer], None]

OUTAGES: dict[str, Fault] = {
    "refuses connections": lambda hub: hub.close(),
    "drops connections": lambda hub: hub.when("", drop),
    "breaks off": lambda hub: hub.when("", cut),
    "is silent": lambda hub: hub.when("", wait(60)),
    "drips": lambda hub: hub.when("", drip(threading.Event())),
    "answers 500": lambda hub: hub.when("", answer(500)),
    "answers 503": lambda hub: hub.when("", answer(503, **{"Retry-After": "3600"})),
    "answers 429": lambda hub: hub.when("", answer(429)),
    "sends a login page": lambda hub: hub.when("", send(b"<html>who are you?</html>")),
    "sends another JSON": lambda hub: hub.when("", send(b'{"sha": "../../etc"}')),
}

FAULTY_LISTINGS: dict[str, Fault] = {
    "drips its files": lambda hub: hub.when("/tree/", drip(threading.Event())),
    "lists no proper files": lambda hub: hub.when("/tree/", send(b'{"path": 1}')),
}


FAULTS = OUTAGES | FAULTY_LISTINGS


@pytest.fixture
def commit(hub: HubServer) -> str:
    return hub.repository(REPO).push(adapter() | adapter("v", "other"))


@pytest.mark.parametrize("fault", OUTAGES.values(), ids=OUTAGES.keys())
def test_what_is_in_the_cache_is_served_and_the_log_says_so(hub, commit, tmp_path, caplog, fault):
    directory = fetch(find(resolver(), REPO), tmp_path)
    fault(hub)
    caplog.clear()
    assert fetch(find(resolver(timeout=TIMEOUT), REPO), tmp_path) == directory
    (message,) = [r.getMessage() for r in caplog.records if r.name == "loramux.lora.hub.source"]
    assert f"hf://{REPO} is served from the local cache, at commit {commit}" in message


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_what_is_not_in_the_cache_is_a_matter_of_trying_again(hub, commit, fault):
    fault(hub)
    start = time.monotonic()
    with pytest.raises(AdapterUnavailableError) as unavailable:
        find(resolver(timeout=TIMEOUT), REPO)
    assert time.monotonic() - start < 30  # silence would be over in 60, and the drips never
    assert "\n" not in str(unavailable.value)
    assert str(unavailable.value).endswith(("try again later.", "or the proxy."))
    assert REPO not in unavailable.value.without_place("mine"), "not everybody may know it"


PATHS = {
    "a file's content": {"ETag": '"../../../../../outside"', "X_Linked_ETag": '"../../outside"'},
    "from the root": {"ETag": '"/proc/self/outside"', "X_Linked_ETag": '"/proc/self/outside"'},
    "a commit": {"X_Repo_Commit": "0" * 40},
}


@pytest.mark.parametrize("names", PATHS.values(), ids=PATHS.keys())
def test_what_a_hub_calls_things_is_no_path_to_elsewhere(hub, commit, tmp_path, names):
    source = find(resolver(), REPO)
    hub.when("/resolve/", naming(**names))
    with pytest.raises(AdapterUnavailableError, match="correct HF_ENDPOINT"):
        fetch(source, tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("asked", ["GET .*/revision/", "GET .*/resolve/"])
def test_an_error_without_end_is_not_read_to_its_end(hub, commit, tmp_path, asked):
    left = threading.Event()
    source = find(resolver(), REPO)
    hub.when(asked, endless_error(left))
    with pytest.raises(AdapterUnavailableError):
        find(resolver(), REPO) if "revision" in asked else fetch(source, tmp_path)
    assert left.wait(60)


@pytest.mark.parametrize("fault", FAULTY_LISTINGS.values(), ids=FAULTY_LISTINGS.keys())
def test_a_commit_that_is_in_the_cache_needs_no_listing(hub, commit, tmp_path, caplog, fault):
    directory = fetch(find(resolver(), REPO), tmp_path)
    fault(hub)
    caplog.clear()
    assert fetch(find(resolver(), REPO), tmp_path) == directory
    assert caplog.messages == []


@pytest.mark.parametrize(
    "sha", ["../../other", "main", "0" * 39, "G" * 40, 40 * "0" + "\n", 1, None]
)
def test_what_is_no_commit_is_never_asked_for(hub, commit, sha):
    hub.when("/revision/", send(json.dumps({"sha": sha}).encode()))
    with pytest.raises(
        AdapterUnavailableError, match=r"no Hugging Face Hub: .* correct HF_ENDPOINT"
    ):
        find(resolver(), REPO)
    assert len(hub.requests) == 1


def test_an_outage_is_not_felt_by_every_request(hub, commit, tmp_path, monkeypatch):
    monkeypatch.setattr(hf_hub, "ERROR_TTL", 600)
    fetch(find(resolver(), REPO), tmp_path)
    hub.when("", answer(429))
    hub.requests.clear()
    stormed = resolver()
    assert len(set(ask(stormed, *[REPO] * 50))) == 1
    assert len(set(ask(stormed, *[REPO] * 50))) == 1
    with pytest.raises(AdapterUnavailableError):
        find(stormed, f"{REPO}/other")
    assert len(hub.requests) == 1


def test_a_hub_that_is_back_is_asked_again(hub, commit, monkeypatch):
    monkeypatch.setattr(hf_hub, "ERROR_TTL", 0.1)
    waiting = resolver()
    hub.when("", drop)
    with pytest.raises(AdapterUnavailableError):
        find(waiting, REPO)
    hub.behave()
    time.sleep(0.11)
    assert find(waiting, REPO).commit == commit


def test_the_last_commit_that_has_the_files_is_served(hub, commit, tmp_path):
    """One adapter was fetched at the older commit, the other at the newer one."""
    lively = resolver(revision_ttl=0)
    fetch(find(lively, f"{REPO}/other"), tmp_path)
    newer = hub.repository(REPO).push(adapter("n") | adapter("m", "other"))
    fetch(find(lively, REPO), tmp_path)
    hub.close()
    assert find(lively, f"{REPO}/other").commit == commit
    assert find(lively, REPO).commit == newer
    assert find(resolver(), REPO).commit == newer


def test_another_branchs_commit_is_never_served_instead(hub, commit, tmp_path):
    fetch(find(resolver(), REPO), tmp_path)
    hub.close()
    with pytest.raises(AdapterUnavailableError):
        find(resolver(), f"{REPO}@v2")


def test_a_branch_that_is_gone_is_not_served_from_the_cache(hub, commit, tmp_path):
    fetch(find(resolver(), REPO), tmp_path)
    del hub.repositories[REPO]
    assert find(resolver(), REPO) is None


def test_questions_that_hang_are_bounded(hub, commit, monkeypatch):
    monkeypatch.setattr(hf_hub, "MAX_QUESTIONS", 4)
    hub.when("", wait(0.3))
    names = [f"{REPO}@branch-{i}" for i in range(10)]
    limited = resolver()

    async def outcomes() -> list[object]:
        asked = (limited.resolve_lora("base", name) for name in names)
        return await asyncio.gather(*asked, return_exceptions=True)

    found = asyncio.run(outcomes())
    assert found.count(None) == 4
    refused = [str(outcome) for outcome in found if outcome is not None]
    assert set(refused) == {"4 questions to the Hugging Face Hub are unanswered; try again later."}
    hub.behave()
    assert find(limited, REPO).commit == commit


def test_behind_the_chain_an_outage_is_no_unknown_name(hub, commit, monkeypatch):
    monkeypatch.setenv("LORAMUX_LORA_RESOLVE_TIMEOUT", "6")
    hub.when("", drip(threading.Event()))
    named = NamedResolver.of("lora_hf_hub_resolver", hf_hub.HubLoRAResolver({REPO: None}))
    chain = ResolverChain([named], ResolverRegistry())
    try:  # the resolver gives up by itself, before the chain gives it up
        with pytest.raises(AdapterUnavailableError, match="raised AdapterUnavailableError"):
            asyncio.run(chain.resolve("base", REPO))
    finally:
        chain.close()


def test_a_drip_that_nobody_waits_for_is_left(hub, commit):
    was_left = threading.Event()
    hub.when("", drip(was_left))
    with pytest.raises(AdapterUnavailableError):
        find(resolver(timeout=0.3), REPO)
    assert was_left.wait(60)


# --- the table of answers ---------------------------------------------------------------------


class Store:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.now = 0.0
        self.error: AdapterError | None = None

    async def ask(self) -> int:
        self.asked += 1
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return self.asked


@pytest.fixture
def store() -> Store:
    return Store()


def cache_of(store: Store, ttl: float = 10, error_ttl: float = 2, capacity: int = 3) -> AnswerCache:
    return AnswerCache(ttl, error_ttl, capacity, clock=lambda: store.now)


def test_an_answer_is_kept_until_it_expires(store):
    cache = cache_of(store)
    assert asyncio.run(cache.get("a", store.ask)) == 1
    store.now = 9.9
    assert asyncio.run(cache.get("a", store.ask)) == 1
    store.now = 10
    assert asyncio.run(cache.get("a", store.ask)) == 2


def test_an_error_is_kept_for_its_own_time(store):
    cache = cache_of(store)
    store.error = AdapterUnavailableError("away")
    for now, asked in ((0, 1), (1.9, 1), (2, 2)):
        store.now = now
        with pytest.raises(AdapterUnavailableError, match="away"):
            asyncio.run(cache.get("a", store.ask))
        assert store.asked == asked


def test_a_fault_of_the_program_is_not_kept(store):
    cache = cache_of(store)
    store.error = ZeroDivisionError()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            asyncio.run(cache.get("a", store.ask))
    assert (store.asked, len(cache)) == (2, 0)


def test_raising_a_kept_error_adds_nothing_to_it(store):
    cache = cache_of(store)
    store.error = AdapterUnavailableError("away")
    depths = set()
    for _ in range(5):
        with pytest.raises(AdapterUnavailableError) as raised:
            asyncio.run(cache.get("a", store.ask))
        depths.add(len(raised.traceback))
    assert len(depths) <= 2


def test_those_who_ask_at_once_share_one_answer(store):
    cache = cache_of(store, ttl=0)

    async def ask_together() -> list[int]:
        return await asyncio.gather(*(cache.get("a", store.ask) for _ in range(100)))

    assert asyncio.run(ask_together()) == [1] * 100
    assert len(cache) == 0


def test_the_table_forgets_what_was_not_used_for_longest(store):
    cache = cache_of(store)
    for key in ("a", "b", "c", "a", "d", "a", "c"):
        asyncio.run(cache.get(key, store.ask))
    assert (store.asked, len(cache)) == (4, 3)
    asyncio.run(cache.get("b", store.ask))
    assert (store.asked, len(cache)) == (5, 3)
