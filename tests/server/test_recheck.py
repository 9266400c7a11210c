"""A found name is asked for again after a while, and what the resolvers say then counts."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from loramux.errors import (
    AdapterRefusedError,
    AdapterUnavailableError,
    LoramuxError,
    ModelNotFoundError,
)
from loramux.lora.request import LoRARequest
from loramux.lora.resolve import path_checks
from loramux.lora.resolve.catalog import AdapterCatalog
from loramux.lora.resolve.path_checks import PathChecks
from tests.server.test_catalog import Answer, Loader, names, settle


class ChangingChain:
    """Says what the test wants to hear, with a new integer id each time."""

    def __init__(self) -> None:
        self.questions = 0
        self.path = "/first"
        self.load_inplace = False
        self.error: Exception | None = None

    async def resolve(self, base_model_name: str, lora_name: str, *, context: object) -> Answer:
        self.questions += 1
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        request = LoRARequest(lora_name, self.questions, self.path, load_inplace=self.load_inplace)
        return Answer("chain", request)


@pytest.fixture
def chain() -> ChangingChain:
    return ChangingChain()


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.fixture
def catalog(chain: ChangingChain, loader: Loader) -> AdapterCatalog:
    return AdapterCatalog("org/base", ["base"], loader, chain, recheck_seconds=0)


def test_nobody_is_asked_again_too_soon(chain: ChangingChain, loader: Loader) -> None:
    async def scenario() -> None:
        catalog = AdapterCatalog("org/base", ["base"], loader, chain, recheck_seconds=600)
        await catalog.find("sql")
        await catalog.find("sql")
        assert chain.questions == 1

    asyncio.run(scenario())


def test_somebody_is_asked_again_after_a_while(chain: ChangingChain, loader: Loader) -> None:
    async def scenario() -> None:
        catalog = AdapterCatalog("org/base", ["base"], loader, chain, recheck_seconds=0.05)
        await catalog.find("sql")
        await asyncio.sleep(0.06)
        await catalog.find("sql")
        assert chain.questions == 2

    asyncio.run(scenario())


def test_the_interval_is_a_variable(
    monkeypatch: pytest.MonkeyPatch, chain: ChangingChain, loader: Loader
) -> None:
    monkeypatch.setenv("LORAMUX_LORA_RECHECK_SECONDS", "0")

    async def scenario() -> None:
        catalog = AdapterCatalog("org/base", ["base"], loader, chain)
        await catalog.find("sql")
        await catalog.find("sql")

    asyncio.run(scenario())
    assert chain.questions == 2


def test_the_same_answer_keeps_the_request_whatever_its_id(catalog: AdapterCatalog) -> None:
    async def scenario() -> None:
        first, _ = await catalog.find("sql")
        again, searched = await catalog.find("sql")
        assert again.lora_request is first.lora_request
        assert again.checked_at > first.checked_at
        assert not searched

    asyncio.run(scenario())


def test_a_new_answer_is_loaded_and_takes_the_place(
    catalog: AdapterCatalog, chain: ChangingChain, loader: Loader
) -> None:
    async def scenario() -> None:
        await catalog.find("sql")
        chain.path = "/second"
        entry, searched = await catalog.find("sql")
        assert (entry.lora_request.path, entry.digest, searched) == (
            "/second", "digest of /second", True,
        )  # fmt: skip
        assert loader.requests[-1].path == "/second"
        assert catalog.known("sql") is entry

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [ModelNotFoundError("gone."), AdapterRefusedError("not you.")])
def test_what_is_gone_or_refused_is_dropped(
    catalog: AdapterCatalog, chain: ChangingChain, error: LoramuxError
) -> None:
    async def scenario() -> None:
        await catalog.find("sql")
        chain.error = error
        with pytest.raises(type(error)):
            await catalog.find("sql")
        assert names(catalog) == []

    asyncio.run(scenario())


def test_an_outage_is_warned_of_once_and_changes_nothing(
    catalog: AdapterCatalog, chain: ChangingChain, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        first, _ = await catalog.find("sql")
        chain.error = AdapterUnavailableError("S3 is off.")
        for _ in range(3):
            entry, searched = await catalog.find("sql")
            assert (entry.lora_request, searched) == (first.lora_request, False)
        chain.error = None
        await catalog.find("sql")
        chain.error = AdapterUnavailableError("S3 is off again.")
        await catalog.find("sql")

    with caplog.at_level(logging.WARNING):
        asyncio.run(scenario())
    warnings = [record.getMessage() for record in caplog.records]
    assert [text.rpartition(": ")[2] for text in warnings] == ["S3 is off.", "S3 is off again."]


def test_all_who_ask_share_one_recheck(
    catalog: AdapterCatalog, chain: ChangingChain, loader: Loader
) -> None:
    async def scenario() -> None:
        await catalog.find("sql")
        chain.path, loader.gate = "/second", asyncio.Event()
        finds = [asyncio.create_task(catalog.find("sql")) for _ in range(5)]
        await settle()
        loader.gate.set()
        found = await asyncio.gather(*finds)
        assert {entry.lora_request.path for entry, _ in found} == {"/second"}

    asyncio.run(scenario())
    assert chain.questions == 2


def test_an_adapter_unloaded_during_a_recheck_stays_unloaded(
    catalog: AdapterCatalog, loader: Loader
) -> None:
    async def scenario() -> None:
        await catalog.find("sql")
        loader.gate = asyncio.Event()
        find = asyncio.create_task(catalog.find("sql"))
        await settle()
        catalog.unregister("sql")
        loader.gate.set()
        await find
        assert names(catalog) == []

    asyncio.run(scenario())


def test_a_resolvers_load_inplace_is_for_one_load(
    catalog: AdapterCatalog, chain: ChangingChain, loader: Loader
) -> None:
    chain.load_inplace = True

    async def scenario() -> None:
        entry, _ = await catalog.find("sql")
        assert not entry.lora_request.load_inplace
        again, searched = await catalog.find("sql")
        assert again.lora_request is entry.lora_request
        assert not searched

    asyncio.run(scenario())
    assert [request.load_inplace for request in loader.requests] == [True, False]


def test_a_hung_file_system_holds_up_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loader: Loader, chain: ChangingChain
) -> None:
    answers = threading.Event()

    async def while_hung(find: Callable[[str], Awaitable[object]]) -> None:
        hung = [asyncio.create_task(find("sql")) for _ in range(8)]
        elsewhere = asyncio.gather(*(asyncio.to_thread(int) for _ in range(40)))
        assert await asyncio.wait_for(elsewhere, 60) == [0] * 40
        for result in await asyncio.gather(*hung, return_exceptions=True):
            assert isinstance(result, AdapterUnavailableError)

    async def scenario() -> None:
        chain.path = str(tmp_path)
        paths = PathChecks(threads=2)
        catalog = AdapterCatalog("org/base", ["base"], loader, chain, paths=paths)
        await catalog.find("sql")
        monkeypatch.setattr(path_checks, "is_directory", lambda _: answers.wait(600))
        monkeypatch.setattr(paths, "_timeout", 0.1)  # not before: a busy machine takes longer
        try:
            await while_hung(catalog.find)
        finally:
            answers.set()

    asyncio.run(scenario())
