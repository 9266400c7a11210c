"""From a LoRA request to an adapter: read once, known by its bytes, and left without a trace."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path

import pytest
import torch

from loramux.errors import AdapterFilesMissingError, AdapterRefusedError, AdapterUnavailableError
from loramux.lora.adapter import Adapter, Tier
from loramux.lora.fetch import known_adapters
from loramux.lora.fetch.locate import CHECKPOINT_FILES
from loramux.lora.fetch.materializer import Materializer
from loramux.lora.fetch.origin import LocalCheckpoint
from loramux.lora.request import LoRARequest
from loramux.lora.weights import AdapterWeights, LowRankPair
from tests.lora.test_loop_thread import wait_until

TIMEOUT = 60
CONFIG, TENSORS = CHECKPOINT_FILES


class Reader:
    """Stands in for the checkpoint reader: the file's bytes decide digest and rank."""

    def __init__(self) -> None:
        self.reads: list[Path] = []
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Semaphore(0)

    def __call__(self, source: LocalCheckpoint) -> AdapterWeights:
        self.reads.append(source.directory)
        self.begun.release()
        assert self.gate.wait(TIMEOUT)
        file = source.directory / TENSORS
        if not file.is_file():
            raise AdapterFilesMissingError(f"{source.directory}: {TENSORS} is missing.")
        content = file.read_bytes()
        rank = 1 + len(content) % 7
        pair = LowRankPair(torch.zeros(rank, 2), torch.zeros(3, rank), 1.0)
        return AdapterWeights(hashlib.sha256(content).hexdigest(), {"site": pair})


@pytest.fixture
def reader() -> Reader:
    return Reader()


@pytest.fixture
def make(reader) -> Iterator[Callable[..., Materializer]]:
    made = []

    def make(host_cache_size: int = 8, max_concurrent: int = 8) -> Materializer:
        made.append(Materializer(reader, host_cache_size, max_concurrent))
        return made[-1]

    yield make
    reader.gate.set()
    for materializer in made:
        materializer.shutdown()


def save(directory: Path, content: str) -> str:
    directory.mkdir(exist_ok=True)
    (directory / CONFIG).write_text("{}")
    (directory / TENSORS).write_text(content)
    return str(directory)


def request(path: str, name: str = "a", **fields: object) -> LoRARequest:
    return LoRARequest(name, 1, path, **fields)


def test_fifty_who_ask_share_one_read(make, reader, tmp_path):
    materializer, path = make(), save(tmp_path / "a", "bytes")
    reader.gate.clear()
    waiters = [materializer.load(request(path)) for _ in range(50)]
    reader.gate.set()
    adapters = {waiter.result(TIMEOUT) for waiter in waiters}
    assert len(adapters) == 1
    assert len(reader.reads) == 1
    assert materializer.load(request(path)).result(TIMEOUT) in adapters
    assert len(reader.reads) == 1, "a checkpoint that has not changed is not read again"


def test_the_id_of_a_request_tells_no_adapters_apart(make, reader, tmp_path):
    materializer, path = make(), save(tmp_path / "a", "bytes")
    reader.gate.clear()
    waiters = [materializer.load(LoRARequest("a", number, path)) for number in range(1, 6)]
    reader.gate.set()
    assert len({waiter.result(TIMEOUT) for waiter in waiters}) == 1
    assert len(reader.reads) == 1


def test_who_looks_just_before_a_read_ends_does_not_read_again(make, reader, tmp_path, monkeypatch):
    materializer, path = make(), save(tmp_path / "a", "bytes")
    adapter = materializer.load(request(path)).result(TIMEOUT)
    looks = []

    def outdated_at_first(origin: object) -> Adapter | None:
        looks.append(origin)
        return None if len(looks) == 1 else adapter

    monkeypatch.setattr(materializer._known, "at", outdated_at_first)
    assert materializer.load(request(path, "b")).result(TIMEOUT) is adapter
    assert len(reader.reads) == 1


def test_every_name_of_an_adapter_is_known(make, reader, tmp_path):
    materializer, path = make(), save(tmp_path / "a", "bytes")
    reader.gate.clear()
    waiters = [materializer.load(request(path, name)) for name in ("a", "b", "c")]
    reader.gate.set()
    assert len({waiter.result(TIMEOUT) for waiter in waiters}) == 1
    assert {info.name for info in materializer.infos()} == {"a", "b", "c"}


def test_a_refusal_is_shared_and_not_kept(make, reader, tmp_path):
    materializer = make()
    path = save(tmp_path / "a", "bytes")
    (tmp_path / "a" / TENSORS).unlink()
    reader.gate.clear()
    waiters = [materializer.load(request(path)) for _ in range(3)]
    assert reader.begun.acquire(timeout=TIMEOUT)
    wait_until(lambda: materializer.num_joins == 2)
    reader.gate.set()
    errors = {waiter.exception(TIMEOUT) for waiter in waiters}
    assert len(errors) == 1
    assert isinstance(errors.pop(), AdapterRefusedError)
    assert materializer.infos() == []
    save(tmp_path / "a", "bytes")
    assert materializer.load(request(path)).result(TIMEOUT).digest


def test_different_adapters_are_read_side_by_side(make, reader, tmp_path):
    materializer = make(max_concurrent=3)
    reader.gate.clear()
    paths = [save(tmp_path / str(number), str(number)) for number in range(3)]
    waiters = [materializer.load(request(path, path)) for path in paths]
    for _ in paths:
        assert reader.begun.acquire(timeout=TIMEOUT), "one read waits for another"
    reader.gate.set()
    assert len({waiter.result(TIMEOUT) for waiter in waiters}) == 3


def test_equal_bytes_are_one_adapter_wherever_they_lie(make, tmp_path):
    materializer = make()
    one = materializer.load(request(save(tmp_path / "a", "bytes"), "a")).result(TIMEOUT)
    two = materializer.load(request(save(tmp_path / "b", "bytes"), "b")).result(TIMEOUT)
    other = materializer.load(request(save(tmp_path / "c", "others"), "c")).result(TIMEOUT)
    assert one is two
    assert other is not one
    assert [info.name for info in materializer.infos()] == ["a", "b", "c"]


def test_new_bytes_under_an_old_path_are_a_new_adapter(make, tmp_path):
    materializer = make()
    old = materializer.load(request(save(tmp_path / "a", "old"))).result(TIMEOUT)
    new = materializer.load(request(save(tmp_path / "a", "newer"))).result(TIMEOUT)
    assert new.digest != old.digest
    assert materializer.weights(old).digest == old.digest, "whoever runs on it keeps it"


def overwrite_unseen(path: str, content: str) -> None:
    """Change the tensors so that nothing about the file shows it."""
    file = Path(path) / TENSORS
    before = file.stat()
    assert len(content) == before.st_size
    file.write_text(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_load_in_place_reads_again_whatever_the_file_looks_like(make, reader, tmp_path):
    materializer, path = make(), save(tmp_path / "a", "old")
    old = materializer.load(request(path)).result(TIMEOUT)
    overwrite_unseen(path, "new")
    assert materializer.load(request(path)).result(TIMEOUT) is old
    new = materializer.load(request(path, load_inplace=True)).result(TIMEOUT)
    assert new is not old
    assert materializer.load(request(path)).result(TIMEOUT) is new
    assert len(reader.reads) == 2


def test_load_in_place_never_takes_over_a_read_that_began_before(make, reader, tmp_path):
    """The bytes may have been replaced since."""
    materializer, path = make(), save(tmp_path / "a", "bytes")
    reader.gate.clear()
    first = materializer.load(request(path, load_inplace=True))
    assert reader.begun.acquire(timeout=TIMEOUT)
    second = materializer.load(request(path, load_inplace=True))
    assert reader.begun.acquire(timeout=TIMEOUT)
    reader.gate.set()
    assert first.result(TIMEOUT) is second.result(TIMEOUT)


def test_what_has_left_the_host_is_read_again(make, reader, tmp_path):
    materializer = make(host_cache_size=1)
    adapters = [
        materializer.load(request(save(tmp_path / name, name), name)).result(TIMEOUT)
        for name in ("a", "b")
    ]
    assert len(materializer.host_cache) == 1
    for adapter in adapters:
        assert materializer.weights(adapter).digest == adapter.digest
    assert [path.name for path in reader.reads] == ["a", "b", "a", "b"]


def test_what_has_changed_meanwhile_is_not_taken_for_what_it_was(make, tmp_path):
    materializer = make(host_cache_size=1)
    adapter = materializer.load(request(save(tmp_path / "a", "old"), "a")).result(TIMEOUT)
    materializer.load(request(save(tmp_path / "b", "b"), "b")).result(TIMEOUT)
    save(tmp_path / "a", "new")
    with pytest.raises(AdapterUnavailableError, match="changed while it was waited for"):
        materializer.weights(adapter)


def test_of_what_has_gone_meanwhile_it_is_said_that_it_may_come_back(make, tmp_path):
    materializer = make(host_cache_size=1)
    adapter = materializer.load(request(save(tmp_path / "a", "old"), "a")).result(TIMEOUT)
    materializer.load(request(save(tmp_path / "b", "b"), "b")).result(TIMEOUT)
    shutil.rmtree(tmp_path / "a")
    with pytest.raises(AdapterUnavailableError, match="went while it was waited for"):
        materializer.weights(adapter)


def test_an_adapter_is_read_again_where_it_was_last_asked_for(make, tmp_path):
    """The copy that made it known a second time may be gone by now."""
    materializer = make(host_cache_size=1)
    original = request(save(tmp_path / "original", "bytes"), "original")
    copy = request(save(tmp_path / "copy", "bytes"), "copy")
    adapter = materializer.load(original).result(TIMEOUT)
    materializer.load(copy).result(TIMEOUT)
    shutil.rmtree(tmp_path / "copy")
    assert materializer.load(original).result(TIMEOUT) is adapter
    materializer.load(request(save(tmp_path / "b", "b"), "b")).result(TIMEOUT)
    assert materializer.weights(adapter).digest == adapter.digest


def test_nothing_is_left_of_a_read_that_everybody_has_left(make, reader, tmp_path):
    materializer, path = make(max_concurrent=1), save(tmp_path / "a", "bytes")
    reader.gate.clear()
    waiters = [materializer.load(request(path)) for _ in range(3)]
    assert reader.begun.acquire(timeout=TIMEOUT)
    wait_until(lambda: materializer.num_joins == 2)
    for waiter in waiters:
        assert waiter.cancel()
    reader.gate.set()
    other = materializer.load(request(save(tmp_path / "b", "b"), "b"))
    wait([other], TIMEOUT)
    assert [info.name for info in materializer.infos()] == ["b"]
    assert len(materializer.host_cache) == 1


def test_one_who_stays_gets_what_the_others_left(make, reader, tmp_path):
    materializer, path = make(), save(tmp_path / "a", "bytes")
    reader.gate.clear()
    waiters = [materializer.load(request(path)) for _ in range(3)]
    assert reader.begun.acquire(timeout=TIMEOUT)
    wait_until(lambda: materializer.num_joins == 2)
    for waiter in waiters[:2]:
        waiter.cancel()
    reader.gate.set()
    assert waiters[2].result(TIMEOUT).digest
    assert len(reader.reads) == 1


def test_infos_tell_where_an_adapter_is(make, tmp_path):
    materializer = make(host_cache_size=1)
    a = materializer.load(request(save(tmp_path / "a", "aaaa"), "a")).result(TIMEOUT)
    materializer.load(request(save(tmp_path / "b", "b"), "b")).result(TIMEOUT)
    assert [info.tier for info in materializer.infos()] == [Tier.DISK, Tier.HOST]
    info = materializer.infos(frozenset({a.digest}))[0]
    assert (info.name, info.digest, info.path) == ("a", a.digest, str(tmp_path / "a"))
    assert (info.rank, info.num_bytes, info.tier) == (5, 5 * 5 * 4, Tier.DEVICE)
    assert set(info.load_seconds) == {"fetch", "read"}


def test_a_forgotten_name_frees_what_no_other_name_needs(make, tmp_path):
    materializer = make()
    path = save(tmp_path / "a", "bytes")
    adapter = materializer.load(request(path, "one")).result(TIMEOUT)
    materializer.load(request(path, "two")).result(TIMEOUT)
    assert materializer.forget("one") == []
    assert adapter.digest in materializer.host_cache
    assert materializer.forget("two") == [adapter]
    assert adapter.digest not in materializer.host_cache
    assert materializer.forget("two") == []
    assert materializer.infos() == []


def test_a_name_means_one_adapter_here_and_another_there(make, tmp_path):
    """Resolvers may answer callers differently, and neither of them is to be in the way."""
    materializer, replaced = make(), []
    materializer.on_replaced = replaced.append
    mine, yours = save(tmp_path / "mine", "mine"), save(tmp_path / "yours", "yours")
    adapters = [materializer.load(request(path)).result(TIMEOUT) for path in (mine, yours)]
    for path in (mine, yours):
        materializer.load(request(path)).result(TIMEOUT)
    assert replaced == []
    told = [(info.name, info.digest) for info in materializer.infos()]
    assert told == [("a", adapter.digest) for adapter in adapters]
    renewed = materializer.load(request(save(tmp_path / "mine", "renewed"))).result(TIMEOUT)
    assert replaced == [adapters[0]]
    assert set(materializer.forget("a")) == {renewed, adapters[1]}
    for path in (mine, yours):
        materializer.load(request(path)).result(TIMEOUT)
    only = materializer.load(request(yours, load_inplace=True)).result(TIMEOUT)
    assert replaced[1:] == [renewed], "an operator says what it means to everybody"
    assert materializer.forget("a") == [only]


def test_what_is_known_is_bounded(make, tmp_path, monkeypatch):
    monkeypatch.setattr(known_adapters, "MAX_KNOWN_ADAPTERS", 2)
    materializer = make()
    for name in "abc":
        materializer.load(request(save(tmp_path / name, name), name)).result(TIMEOUT)
    assert [info.name for info in materializer.infos()] == ["b", "c"]


def test_time_is_told_for_each_stage(make, reader, tmp_path):
    materializer = make()
    reader.gate.clear()
    began = time.monotonic()
    loading = materializer.load(request(save(tmp_path / "a", "bytes")))
    assert reader.begun.acquire(timeout=TIMEOUT)
    time.sleep(0.02)
    reader.gate.set()
    seconds = loading.result(TIMEOUT).load_seconds
    assert seconds["read"] >= 0.02
    assert seconds["fetch"] <= time.monotonic() - began - 0.02
