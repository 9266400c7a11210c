"""Which names are served: searches, their sharing, their bounds and what they leave behind."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from loramux.errors import (
    AdapterFilesMissingError,
    AdapterRefusedError,
    InvalidRequestError,
    ModelNotFoundError,
)
from loramux.lora.request import LoRARequest
from loramux.lora.resolve.catalog import AdapterCatalog, AdapterModule
from loramux.lora.resolver import ResolveContext


@dataclass
class Answer:
    resolver_name: str
    lora_request: LoRARequest


@dataclass
class Loaded:
    digest: str


class Chain:
    """Has every adapter whose name does not begin with "no"."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str | None]] = []
        self.forgotten: set[str] = set()
        self.path = "/adapters"

    async def resolve(
        self, base_model_name: str, lora_name: str, *, context: ResolveContext | None = None
    ) -> Answer:
        self.asked.append((base_model_name, lora_name, context and context.caller))
        await asyncio.sleep(0)
        if lora_name.startswith("no") or lora_name in self.forgotten:
            raise ModelNotFoundError(lora_name)
        return Answer("chain", LoRARequest(lora_name, 1, f"{self.path}/{lora_name}"))


class Loader:
    """Loads at once, or when ``gate`` opens."""

    def __init__(self) -> None:
        self.requests: list[LoRARequest] = []
        self.cancelled = 0
        self.gate: asyncio.Event | None = None
        self.error: Exception | None = None

    async def __call__(self, request: LoRARequest) -> Loaded:
        self.requests.append(request)
        if self.gate is not None:
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if self.error is not None:
            raise self.error
        return Loaded(f"digest of {request.path}")


@pytest.fixture
def chain() -> Chain:
    return Chain()


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.fixture
def catalog(chain: Chain, loader: Loader) -> AdapterCatalog:
    return AdapterCatalog("org/base", ["base"], loader, chain, capacity=3)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0.001)


def names(catalog: AdapterCatalog, caller: str | None = None) -> list[str]:
    return [entry.name for entry in catalog.entries(caller)]


def test_a_found_name_is_searched_once(catalog: AdapterCatalog, chain: Chain) -> None:
    async def scenario() -> None:
        entry, searched = await catalog.find("sql")
        assert (entry.name, entry.resolver_name, searched) == ("sql", "chain", True)
        again, searched = await catalog.find("sql")
        assert again is entry
        assert not searched

    asyncio.run(scenario())
    assert chain.asked == [("org/base", "sql", None)]


class GoingLoader(Loader):
    """Finds the adapter's files gone, the first few times."""

    def __init__(self, chain: Chain, times: int, moved_to: str | None) -> None:
        super().__init__()
        self._chain, self._left, self._moved_to = chain, times, moved_to

    async def __call__(self, request: LoRARequest) -> Loaded:
        if not self._left:
            return await super().__call__(request)
        self._left -= 1
        if self._moved_to is None:
            self._chain.forgotten.add(request.name)
        else:
            self._chain.path = self._moved_to
        raise AdapterFilesMissingError.at(request.path, "adapter_config.json is missing")


@pytest.mark.parametrize("is_known", [False, True])
@pytest.mark.parametrize(
    ("times", "moved_to", "outcome", "num_asked"),
    [
        (1, None, ModelNotFoundError, 2),
        (1, "/elsewhere", "digest of /elsewhere/sql", 2),
        (2, "/elsewhere", "digest of /elsewhere/sql", 3),
        (9, "/adapters", AdapterFilesMissingError, 3),
    ],
)
def test_an_adapter_that_goes_while_it_is_loaded_is_asked_for_again(
    chain: Chain, is_known: bool, times: int, moved_to: str | None, outcome: Any, num_asked: int
) -> None:
    async def scenario() -> str:
        loader = GoingLoader(chain, 0 if is_known else times, moved_to)
        catalog = AdapterCatalog("org/base", ["base"], loader, chain, recheck_seconds=0)
        if is_known:
            await catalog.find("sql")
            chain.asked.clear()
            loader._left = times
        entry, _ = await catalog.find("sql")
        return entry.digest

    if isinstance(outcome, str):
        assert asyncio.run(scenario()) == outcome
    else:
        with pytest.raises(outcome):
            asyncio.run(scenario())
    assert len(chain.asked) == num_asked


def test_the_table_is_bounded_and_forgets_the_least_recently_used(
    catalog: AdapterCatalog, chain: Chain
) -> None:
    async def scenario() -> None:
        for name in ("a", "b", "c", "a", "d"):
            await catalog.find(name)
        assert names(catalog) == ["c", "a", "d"]
        await catalog.find("b")

    asyncio.run(scenario())
    assert [name for _, name, _ in chain.asked] == ["a", "b", "c", "d", "b"]


def test_names_that_do_not_exist_are_not_remembered(catalog: AdapterCatalog) -> None:
    async def scenario() -> None:
        for number in range(100):
            with pytest.raises(ModelNotFoundError):
                await catalog.find(f"no{number}")

    asyncio.run(scenario())
    assert names(catalog) == []
    assert len(catalog._searches) == 0


def test_without_adapters_nobody_is_asked(loader: Loader) -> None:
    catalog = AdapterCatalog("org/base", ["base"], loader, None)
    with pytest.raises(ModelNotFoundError, match="The model `sql` does not exist"):
        asyncio.run(catalog.find("sql"))


def test_a_refused_adapter_leaves_no_entry_and_is_searched_again(
    catalog: AdapterCatalog, chain: Chain, loader: Loader
) -> None:
    async def scenario() -> None:
        loader.error = AdapterRefusedError("rank 99.")
        with pytest.raises(AdapterRefusedError):
            await catalog.find("sql")
        assert names(catalog) == []
        loader.error = None
        await catalog.find("sql")

    asyncio.run(scenario())
    assert len(chain.asked) == 2


def test_a_refusal_is_shared_by_all_who_wait(
    catalog: AdapterCatalog, chain: Chain, loader: Loader
) -> None:
    async def scenario() -> list[Any]:
        loader.gate, loader.error = asyncio.Event(), AdapterRefusedError("rank 99.")
        searches = [asyncio.create_task(catalog.find("sql")) for _ in range(5)]
        await settle()
        loader.gate.set()
        return await asyncio.gather(*searches, return_exceptions=True)

    assert [type(result) for result in asyncio.run(scenario())] == [AdapterRefusedError] * 5
    assert len(chain.asked) == len(loader.requests) == 1


def test_one_who_leaves_disturbs_no_other(catalog: AdapterCatalog, loader: Loader) -> None:
    async def scenario() -> None:
        loader.gate = asyncio.Event()
        leaving = asyncio.create_task(catalog.find("sql"))
        staying = asyncio.create_task(catalog.find("sql"))
        await settle()
        leaving.cancel()
        await settle()
        loader.gate.set()
        entry, _ = await staying
        assert entry.name == "sql"

    asyncio.run(scenario())
    assert loader.cancelled == 0
    assert len(loader.requests) == 1


def test_when_the_last_one_leaves_nothing_is_left(catalog: AdapterCatalog, loader: Loader) -> None:
    async def scenario() -> None:
        loader.gate = asyncio.Event()
        searches = [asyncio.create_task(catalog.find("sql")) for _ in range(3)]
        await settle()
        for search in searches:
            search.cancel()
        results = await asyncio.gather(*searches, return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError] * 3
        await settle()
        assert (loader.cancelled, names(catalog), len(catalog._searches)) == (1, [], 0)
        loader.gate.set()
        entry, searched = await catalog.find("sql")
        assert (entry.name, searched) == ("sql", True)

    asyncio.run(scenario())


def test_a_directory_that_went_away_is_searched_again(
    catalog: AdapterCatalog, chain: Chain, tmp_path: Path
) -> None:
    async def scenario() -> None:
        chain.path = str(tmp_path)
        (tmp_path / "sql").mkdir()
        await catalog.find("sql")
        (tmp_path / "sql").rmdir()
        _, searched = await catalog.find("sql")
        assert searched

    asyncio.run(scenario())
    assert len(chain.asked) == 2


def test_callers_do_not_see_what_others_found(catalog: AdapterCatalog, chain: Chain) -> None:
    async def scenario() -> None:
        await catalog.find("sql", "alice")
        assert catalog.known("sql", "bob") is None
        await catalog.find("sql", "bob")

    asyncio.run(scenario())
    assert [caller for *_, caller in chain.asked] == ["alice", "bob"]
    assert (names(catalog, "alice"), names(catalog, None)) == (["sql"], [])


def test_registered_adapters_keep_the_order_given(catalog: AdapterCatalog, loader: Loader) -> None:
    modules = [AdapterModule("b", "/b"), AdapterModule("a", "/a", "org/parent")]
    asyncio.run(catalog.register_all(modules))
    assert names(catalog) == ["b", "a"]
    assert catalog.entries()[1].lora_request.base_model_name == "org/parent"
    assert len({request.lora_int_id for request in loader.requests}) == 2


@pytest.mark.parametrize(
    ("modules", "error"),
    [
        ([("base", "/x")], "conflicts with a served base model"),
        ([("a", "/x"), ("a", "/y")], "already been loaded"),
    ],
)
def test_names_that_are_taken_end_the_start(
    catalog: AdapterCatalog, modules: list[tuple[str, str]], error: str
) -> None:
    with pytest.raises(InvalidRequestError, match=error):
        asyncio.run(catalog.register_all([AdapterModule(*module) for module in modules]))


def test_an_adapter_refused_at_the_start_is_told_as_it_is(
    catalog: AdapterCatalog, loader: Loader
) -> None:
    loader.error = AdapterRefusedError("rank 99.")
    with pytest.raises(AdapterRefusedError, match=r"rank 99\."):
        asyncio.run(catalog.register_all([AdapterModule("a", "/a"), AdapterModule("b", "/b")]))
    assert names(catalog) == []


def test_a_refused_adapter_is_noted_in_the_log_and_once(
    catalog: AdapterCatalog, loader: Loader, caplog: pytest.LogCaptureFixture
) -> None:
    loader.error = AdapterRefusedError("rank 99 exceeds\nmax_lora_rank 8.")
    for name in ("sql", "sql", "a\u2028b"):
        with pytest.raises(AdapterRefusedError):
            asyncio.run(catalog.find(name, "a secret key"))
    loader.error = AdapterRefusedError("it is torn.")
    with pytest.raises(AdapterRefusedError):
        asyncio.run(catalog.register(AdapterModule("sql", "/x")))
    assert caplog.messages == [
        "adapter 'sql' is refused: rank 99 exceeds max_lora_rank 8.",
        "adapter 'a\\u2028b' is refused: rank 99 exceeds max_lora_rank 8.",
        "adapter 'sql' is refused: it is torn.",
    ]
    assert {record.levelname for record in caplog.records} == {"WARNING"}


def test_two_who_register_one_name_at_once(catalog: AdapterCatalog, loader: Loader) -> None:
    async def scenario() -> list[Any]:
        loader.gate = asyncio.Event()
        first, second = (
            asyncio.create_task(catalog.register(AdapterModule("a", path))) for path in "xy"
        )
        await settle()
        loader.gate.set()
        return await asyncio.gather(first, second, return_exceptions=True)

    first, second = asyncio.run(scenario())
    assert first is None
    assert isinstance(second, InvalidRequestError)
    assert catalog.entries()[0].lora_request.path == "x"


def test_registering_replaces_what_was_found(catalog: AdapterCatalog) -> None:
    async def scenario() -> None:
        await catalog.find("sql", "alice")
        with pytest.raises(InvalidRequestError):
            await catalog.register(AdapterModule("sql", "/mine"))
        await catalog.register(AdapterModule("sql", "/mine"), load_inplace=True)
        entry, searched = await catalog.find("sql", "alice")
        assert (entry.found_by, entry.lora_request.path, searched) == (
            "registered", "/mine", False,
        )  # fmt: skip

    asyncio.run(scenario())


def test_unregister(catalog: AdapterCatalog) -> None:
    async def scenario() -> None:
        await catalog.register(AdapterModule("a", "/a"))
        await catalog.find("b", "alice")
        catalog.unregister("a")
        catalog.unregister("b")

    asyncio.run(scenario())
    assert (names(catalog), names(catalog, "alice")) == ([], [])
    with pytest.raises(ModelNotFoundError, match="The lora adapter 'a' cannot be found"):
        catalog.unregister("a")
