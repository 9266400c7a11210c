"""A resolver that keeps the contract, and one for each way to break it.

Not collected with the other tests: ``test_contract.py`` runs this file and looks at what fails.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import pytest

from loramux import LoRARequest, LoRAResolver
from loramux.lora.resolver import stable_lora_int_id
from loramux.testing import ResolverContract, write_adapter
from tests.kit.copying_source import CopyingSource


class Store:
    """A directory of adapters that can be slow, gone or changed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.seconds = 0.003
        self.is_lost = False

    def put(self, name: str, seed: int) -> None:
        file = write_adapter(self.root / name, seed=seed) / "adapter_model.safetensors"
        (self.root / name / "etag").write_text(hashlib.sha256(file.read_bytes()).hexdigest())

    async def etag(self, name: str) -> str | None:
        await asyncio.sleep(self.seconds)
        if self.is_lost:
            raise OSError("the store is gone")
        return (self.root / name / "etag").read_text() if name == "good" else None


class Good(LoRAResolver):
    """Keeps the contract; the others override one step of it."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        etag = await self.etag(lora_name)
        return None if etag is None else self.request(lora_name, etag)

    async def etag(self, name: str) -> str | None:
        return await self.store.etag(name)

    def request(self, name: str, etag: str) -> LoRARequest:
        source = CopyingSource(self.store.root / name, etag)
        return LoRARequest(name, stable_lora_int_id(name), source.uri, source=source)


class TestGood(ResolverContract):
    seconds = 30.0
    kind: type[Good] = Good

    @pytest.fixture
    def store(self, tmp_path):
        store = Store(tmp_path / "store")
        store.put("good", seed=1)
        return store

    @pytest.fixture
    def resolver(self, store):
        return self.kind(store)

    @pytest.fixture
    def known_name(self):
        return "good"

    @pytest.fixture
    def change_adapter(self, store):
        return lambda: store.put("good", seed=2)

    @pytest.fixture
    def slow_store(self, store):
        return lambda seconds: setattr(store, "seconds", seconds)

    @pytest.fixture
    def lose_store(self, store):
        return lambda: setattr(store, "is_lost", True)


class Traverses(Good):
    async def etag(self, name):
        file = self.store.root / name / "etag"
        await self.store.etag("good")
        return file.read_text() if "\0" not in name and len(name) < 99 and file.exists() else None


class TestTraverses(TestGood):
    kind = Traverses

    @pytest.fixture
    def store(self, tmp_path):
        Store(tmp_path).put("secret", seed=3)
        store = Store(tmp_path / "store")
        store.put("good", seed=1)
        return store


class HasEverything(Good):
    async def etag(self, name):
        return await super().etag("good")


class TestHasEverything(TestGood):
    kind = HasEverything


class HasNothing(Good):
    async def etag(self, name):
        return None


class TestHasNothing(TestGood):
    kind = HasNothing


class RaisesForAMiss(Good):
    async def etag(self, name):
        return {"good": await super().etag("good")}[name]


class TestRaisesForAMiss(TestGood):
    kind = RaisesForAMiss


class ReturnsAPath(Good):
    def request(self, name, etag):
        return str(self.store.root / name)


class TestReturnsAPath(TestGood):
    kind = ReturnsAPath


class Renames(Good):
    def request(self, name, etag):
        return replace(super().request(name, etag), lora_name="the one")


class TestRenames(TestGood):
    kind = Renames


class CountsIds(Good):
    ids = count(1)

    def request(self, name, etag):
        return replace(super().request(name, etag), lora_int_id=next(self.ids))


class TestCountsIds(TestGood):
    kind = CountsIds


class FindsABrokenAdapter(Good):
    def request(self, name, etag):
        (self.store.root / name / "adapter_model.safetensors").write_bytes(b"torn")
        return super().request(name, etag)


class TestFindsABrokenAdapter(TestGood):
    kind = FindsABrokenAdapter


class SwallowsCancellation(Good):
    async def etag(self, name):
        try:
            return await super().etag(name)
        except asyncio.CancelledError:
            return None


class TestSwallowsCancellation(TestGood):
    kind = SwallowsCancellation


class CannotBeCancelled(Good):
    async def etag(self, name):
        task = asyncio.create_task(super().etag(name))
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.shield(task)
        return task.result()


class TestCannotBeCancelled(TestGood):
    kind = CannotBeCancelled


class KeepsItsLock(Good):
    def __init__(self, store):
        super().__init__(store)
        self.lock = asyncio.Lock()

    async def etag(self, name):
        await self.lock.acquire()
        etag = await super().etag(name)
        self.lock.release()
        return etag


class TestKeepsItsLock(TestGood):
    seconds = 1.0
    kind = KeepsItsLock


class MixesUpCallers(Good):
    async def etag(self, name):
        self.name = name
        await asyncio.sleep(0)
        return await super().etag(self.name)


class TestMixesUpCallers(TestGood):
    kind = MixesUpCallers


class TakesFailureForAbsence(Good):
    async def etag(self, name):
        try:
            return await super().etag(name)
        except OSError:
            return None


class TestTakesFailureForAbsence(TestGood):
    kind = TakesFailureForAbsence


class Remembers(Good):
    def __init__(self, store):
        super().__init__(store)
        self.known = {}

    async def etag(self, name):
        if self.known.get(name) is None:
            self.known[name] = await super().etag(name)
        return self.known[name]


class TestRemembers(TestGood):
    kind = Remembers


@dataclass(frozen=True)
class Unpinned(CopyingSource):
    def fetch(self, directory, progress):
        (self.store / "etag").unlink(missing_ok=True)
        return super().fetch(directory, progress)


class DoesNotPin(Good):
    source_kind = Unpinned

    def request(self, name, etag):
        return replace(
            super().request(name, etag),
            source=self.source_kind(self.store.root / name, etag),
        )


class TestDoesNotPin(TestGood):
    kind = DoesNotPin


@dataclass(frozen=True, eq=False)
class NeverEqual(CopyingSource):
    __eq__ = object.__eq__
    __hash__ = object.__hash__


class MakesSourcesThatDiffer(DoesNotPin):
    source_kind = NeverEqual


class TestMakesSourcesThatDiffer(TestGood):
    kind = MakesSourcesThatDiffer


@dataclass(frozen=True)
class Careless(CopyingSource):
    @property
    def uri(self):
        return "https://user:password@store/good"

    def fetch(self, directory, progress):
        def report(done, total):
            with suppress(Exception):
                progress(done, total - 1)

        return super().fetch(directory, report)


class IsCareless(DoesNotPin):
    source_kind = Careless


class TestIsCareless(TestGood):
    kind = IsCareless


@dataclass(frozen=True)
class Alone(CopyingSource):
    def fetch(self, directory, progress):
        lock = self.store / "lock"
        lock.touch(exist_ok=False)
        time.sleep(0.05)
        fetched = super().fetch(directory, progress)
        lock.unlink()
        return fetched


class FetchesAlone(DoesNotPin):
    source_kind = Alone


class TestFetchesAlone(TestGood):
    kind = FetchesAlone
