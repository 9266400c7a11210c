"""The disk cache: what is in it is whole, in use or within its size, whoever dies when."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from loramux.env import EnvironmentVariableError
from loramux.errors import AdapterRefusedError, AdapterUnavailableError
from loramux.lora.disk_cache import directory as cache_directory
from loramux.lora.disk_cache.byte_size import read_byte_size
from loramux.lora.disk_cache.cache import DiskCache
from loramux.lora.source import AdapterSource
from tests.lora import cache_process
from tests.lora.fake_source import FakeSource, ignore

TENSORS = "adapter_model.safetensors"
LARGE = 10**9


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def cache(directory: Path) -> DiskCache:
    return DiskCache(directory, LARGE)


def content(cache: DiskCache, source: AdapterSource) -> bytes:
    with cache.get_or_fetch(source, ignore) as checkpoint:
        return (checkpoint.directory / TENSORS).read_bytes()


def adapters(directory: Path) -> list[Path]:
    return list((directory / "adapters").iterdir())


def assert_nothing_unfinished(directory: Path) -> None:
    assert list((directory / "incoming").iterdir()) == []


# --- once ---------------------------------------------------------------------------------------


def test_a_source_is_fetched_once(cache, directory):
    source = FakeSource("a", b"tensors")
    assert content(cache, source) == content(cache, source) == b"tensors"
    assert len(source.fetches) == 1
    assert_nothing_unfinished(directory)


def test_a_restart_finds_what_was_fetched(cache, directory):
    content(cache, FakeSource("a", b"tensors"))
    again = FakeSource("a", b"tensors")
    assert content(DiskCache(directory, LARGE), again) == b"tensors"
    assert again.fetches == []


def test_another_revision_is_another_adapter(cache):
    assert content(cache, FakeSource("a", b"old")) == b"old"
    assert content(cache, FakeSource("a", b"new", version="2")) == b"new"
    assert content(cache, FakeSource("a", b"old")) == b"old"


def test_equal_content_is_kept_once(cache, directory):
    for name in "abc":
        assert content(cache, FakeSource(name, b"same")) == b"same"
    assert len(adapters(directory)) == 1
    assert_nothing_unfinished(directory)


def test_a_directory_of_the_sources_own_is_passed_through(cache, directory, tmp_path):
    own = tmp_path / "own"

    class HubSource(FakeSource):
        def fetch(self, directory, progress):
            own.mkdir(exist_ok=True)
            return own

    with cache.get_or_fetch(HubSource("a", b""), ignore) as checkpoint:
        assert checkpoint.directory == own
    assert own.is_dir()
    assert adapters(directory) == []
    assert_nothing_unfinished(directory)


def test_a_directory_inside_of_what_was_fetched_is_the_adapter(cache, directory):
    class ArchiveSource(FakeSource):
        def fetch(self, directory, progress):
            (directory / "unpacked").mkdir()
            return super().fetch(directory / "unpacked", progress)

    assert content(cache, ArchiveSource("a", b"tensors")) == b"tensors"
    assert_nothing_unfinished(directory)


@pytest.mark.parametrize("brought", ["nothing", "link"])
def test_what_cannot_be_kept_is_refused(cache, directory, brought):
    class OddSource(FakeSource):
        def fetch(self, directory, progress):
            if brought == "link":
                (directory / TENSORS).symlink_to("/etc/hostname")
            return directory

    with pytest.raises(AdapterRefusedError, match=r"no files|no regular file"):
        cache.get_or_fetch(OddSource("a", b""), ignore)
    assert adapters(directory) == []
    assert_nothing_unfinished(directory)


# --- size ---------------------------------------------------------------------------------------


def test_the_least_recently_used_is_evicted(directory):
    cache = DiskCache(directory, 2500)
    sources = {name: FakeSource(name, name.encode() * 1000) for name in "abc"}
    for name in "abacab":
        assert content(cache, sources[name]) == name.encode() * 1000
    fetches = {name: len(source.fetches) for name, source in sources.items()}
    assert fetches == {"a": 1, "b": 2, "c": 1}
    assert len(adapters(directory)) == 2
    assert len(list((directory / "sources").iterdir())) == 2


def test_room_is_made_before_the_bytes_arrive(directory):
    cache = DiskCache(directory, 2500)
    content(cache, FakeSource("a", b"a" * 1000))
    content(cache, FakeSource("b", b"b" * 1000))
    kept = []
    late = FakeSource("c", b"c" * 1000, before=lambda _: kept.append(len(adapters(directory))))
    content(cache, late)
    assert kept == [1]


def test_what_is_in_use_is_not_evicted(directory):
    cache = DiskCache(directory, 1500)
    with cache.get_or_fetch(FakeSource("a", b"a" * 1000), ignore) as first:
        for name in "bcd":
            assert content(cache, FakeSource(name, name.encode() * 1000)) == name.encode() * 1000
        assert (first.directory / TENSORS).read_bytes() == b"a" * 1000
    assert sum(map(_size, adapters(directory))) <= 1500


def test_an_adapter_larger_than_the_cache_is_served_and_goes(directory):
    cache = DiskCache(directory, 100)
    assert content(cache, FakeSource("a", b"a" * 1000)) == b"a" * 1000
    assert adapters(directory) == []


def test_closing_twice_is_closing_once(directory):
    cache = DiskCache(directory, LARGE)
    source = FakeSource("a", b"a")
    first, second = (cache.get_or_fetch(source, ignore) for _ in range(2))
    first.close()
    first.close()
    cache.max_bytes = 0
    content(cache, FakeSource("b", b"b"))
    assert (second.directory / TENSORS).read_bytes() == b"a"
    second.close()
    assert adapters(directory) == []


def test_the_links_are_bounded(cache, directory, monkeypatch):
    monkeypatch.setattr(cache_directory, "MAX_SOURCES", 3)
    for number in range(10):
        content(cache, FakeSource("a", b"same", version=str(number)))
    assert 2 <= len(list((directory / "sources").iterdir())) <= 3
    assert len(adapters(directory)) == 1


def test_adapters_of_a_few_bytes_are_bounded_too(cache, directory, monkeypatch):
    monkeypatch.setattr(cache_directory, "MAX_ADAPTERS", 8)
    manifests_read = []
    read_manifest = cache_directory.read_manifest
    monkeypatch.setattr(
        cache_directory,
        "read_manifest",
        lambda entry: manifests_read.append(entry) or read_manifest(entry),
    )
    for number in range(30):
        assert content(cache, FakeSource(str(number), b"%d" % number)) == b"%d" % number
    assert 7 <= len(adapters(directory)) <= 8
    assert len(manifests_read) == 30  # each once, and not all of them for each fetch
    latest = FakeSource("29", b"29")
    assert content(cache, latest) == b"29"
    assert latest.fetches == []


# --- damage -------------------------------------------------------------------------------------


def truncate(entry: Path) -> None:
    os.truncate(entry / "files" / TENSORS, 3)


def overwrite(entry: Path) -> None:
    (entry / "files" / TENSORS).write_bytes(b"TENSORS")


def remove_file(entry: Path) -> None:
    (entry / "files" / TENSORS).unlink()


def remove_files(entry: Path) -> None:
    shutil.rmtree(entry / "files")


def remove_manifest(entry: Path) -> None:
    (entry / "manifest.json").unlink()


def break_manifest(entry: Path) -> None:
    (entry / "manifest.json").write_text('{"digest": 1, "size": [], "files": {"a": 3}}')


def cut_manifest(entry: Path) -> None:
    os.truncate(entry / "manifest.json", 20)


DAMAGE = [
    truncate,
    overwrite,
    remove_file,
    remove_files,
    remove_manifest,
    break_manifest,
    cut_manifest,
    shutil.rmtree,
]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_adapter_is_fetched_again(cache, directory, damage):
    source = FakeSource("a", b"tensors")
    content(cache, source)
    damage(*adapters(directory))
    assert content(cache, source) == b"tensors"
    assert len(source.fetches) == 2
    assert_nothing_unfinished(directory)


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_adapter_is_in_nobodys_way(cache, directory, damage):
    content(cache, FakeSource("a", b"tensors"))
    damage(*adapters(directory))
    assert content(cache, FakeSource("b", b"tensors")) == b"tensors"
    cache.max_bytes = 10
    assert content(cache, FakeSource("c", b"c")) == b"c"
    assert len(adapters(directory)) == 1


# --- failures -----------------------------------------------------------------------------------


class Gone(BaseException):
    """What whoever waits for an adapter may raise."""


@pytest.mark.parametrize(
    "error",
    [AdapterUnavailableError("no."), AdapterRefusedError("no."), Gone(), KeyboardInterrupt()],
    ids=lambda error: type(error).__name__,
)
def test_a_failed_fetch_leaves_nothing(cache, directory, error):
    def fail(_):
        raise error

    with pytest.raises(type(error)) as caught:
        cache.get_or_fetch(FakeSource("a", b"a", before=fail), ignore)
    assert caught.value is error
    assert adapters(directory) == list((directory / "sources").iterdir()) == []
    assert_nothing_unfinished(directory)


@pytest.mark.parametrize("error", [TimeoutError(), Gone(), OSError(errno.ENOSPC, "mine")])
def test_what_progress_raises_comes_through(cache, directory, error):
    def leave(done, total):
        raise error

    with pytest.raises(type(error)) as caught:
        cache.get_or_fetch(FakeSource("a", b"a"), leave)
    assert caught.value is error
    assert_nothing_unfinished(directory)


def test_a_lost_connection_is_not_called_a_bad_disk(cache):
    def fail(_):
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    with pytest.raises(
        AdapterUnavailableError, match=r"fake://a: the adapter cannot be read \(Connection re"
    ):
        cache.get_or_fetch(FakeSource("a", b"a", before=fail), ignore)


def full_disk(_: Path) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_said_to_be_full(cache, directory):
    with pytest.raises(
        AdapterUnavailableError, match=r"disk of the adapter cache .* is full; free"
    ):
        cache.get_or_fetch(FakeSource("a", b"a", before=full_disk), ignore)
    assert adapters(directory) == []
    assert_nothing_unfinished(directory)


def test_on_a_full_disk_what_nobody_uses_makes_way(cache, directory):
    content(cache, FakeSource("old", b"old"))
    used = cache.get_or_fetch(FakeSource("used", b"used"), ignore)

    def full_while_the_old_one_is_there(_):
        if len(adapters(directory)) > 1:
            full_disk(_)

    source = FakeSource("a", b"new", before=full_while_the_old_one_is_there)
    assert content(cache, source) == b"new"
    assert (used.directory / TENSORS).read_bytes() == b"used"
    used.close()


def test_a_file_size_limit_of_the_system_is_no_half_adapter(cache, directory):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(AdapterUnavailableError, match=r"cannot be stored .* \(File too large"):
            cache.get_or_fetch(FakeSource("a", b"a" * 100_000), ignore)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert adapters(directory) == []
    assert_nothing_unfinished(directory)


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    cache = DiskCache(tmp_path / "file" / "cache", LARGE)
    with pytest.raises(AdapterUnavailableError, match=r"set LORAMUX_ADAPTER_CACHE_DIR"):
        cache.get_or_fetch(FakeSource("a", b"a"), ignore)


# --- several processes --------------------------------------------------------------------------


@contextmanager
def another_process(directory: Path, point: str) -> Iterator[subprocess.Popen[str]]:
    """A process that fetches "shared" and is held at a point."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.lora.cache_process", str(directory), point],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert process.stdout.readline() == "there\n"
        yield process
    finally:
        process.kill()
        process.communicate()


SHARED = FakeSource("shared", cache_process.CONTENT)


@pytest.mark.parametrize("point", ["fetch", "seal", "link", "publish", "evict", "use"])
def test_a_process_killed_at_any_point_leaves_no_half_adapter(directory, point):
    with another_process(directory, point) as process:
        process.kill()
        process.wait()
        cache = DiskCache(directory, LARGE)
        assert_nothing_unfinished(directory)
        source = FakeSource("shared", cache_process.CONTENT)
        assert content(cache, source) == cache_process.CONTENT
        assert len(source.fetches) == (0 if point in ("evict", "use") else 1)
    cache.max_bytes = 0
    content(cache, FakeSource("b", b"b"))
    assert adapters(directory) == list((directory / "sources").iterdir()) == []


def test_one_process_waits_for_the_others_fetch(cache, directory):
    source = FakeSource("shared", b"not fetched here")
    beats = []
    with another_process(directory, "fetch") as process:

        def progress(done, total):
            beats.append((done, total))
            if len(beats) == 3:
                process.stdin.write("\n")
                process.stdin.flush()

        with cache.get_or_fetch(source, progress) as checkpoint:
            assert (checkpoint.directory / TENSORS).read_bytes() == cache_process.CONTENT
        assert process.communicate()[0] == f"{cache_process.CONTENT.decode()}\n"
    assert source.fetches == []
    assert set(beats) == {(0, 0)}


def test_whoever_waits_for_another_process_may_leave(cache, directory):
    def leave(done, total):
        raise Gone

    with another_process(directory, "fetch") as process:
        with pytest.raises(Gone):
            cache.get_or_fetch(SHARED, leave)
        assert process.communicate("\n")[0] == f"{cache_process.CONTENT.decode()}\n"


def test_whoever_waits_takes_over_from_a_process_that_dies(cache, directory):
    source = FakeSource("shared", cache_process.CONTENT)
    with (
        another_process(directory, "fetch") as process,
        cache.get_or_fetch(source, lambda done, total: process.kill()) as checkpoint,
    ):
        assert (checkpoint.directory / TENSORS).read_bytes() == cache_process.CONTENT
    assert len(source.fetches) == 1
    assert_nothing_unfinished(directory)


def test_a_start_leaves_the_fetches_of_others_alone(directory):
    with another_process(directory, "fetch") as process:
        DiskCache(directory, LARGE)
        assert process.communicate("\n")[0] == f"{cache_process.CONTENT.decode()}\n"


def test_what_another_process_uses_is_not_evicted(directory):
    cache = DiskCache(directory, 30)
    with another_process(directory, "use") as process:
        for name in "abc":
            content(cache, FakeSource(name, name.encode() * 20))
        assert process.communicate("\n")[0] == f"{cache_process.CONTENT.decode()}\n"
    content(cache, FakeSource("d", b"d" * 20))
    assert sum(map(_size, adapters(directory))) <= 30


def test_a_forked_process_does_not_keep_what_its_parent_let_go(directory):
    cache = DiskCache(directory, 30)
    held = cache.get_or_fetch(FakeSource("a", b"a" * 20), ignore)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(reader, 1)
        os._exit(0)
    try:
        held.close()
        content(cache, FakeSource("b", b"b" * 20))
        (kept,) = adapters(directory)
        assert (kept / "files" / TENSORS).read_bytes() == b"b" * 20
    finally:
        os.write(writer, b"x")
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)


# --- several threads ----------------------------------------------------------------------------


def test_threads_that_want_one_source_share_one_fetch(cache):
    source = FakeSource("a", b"tensors", before=lambda _: time.sleep(0.1))
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: content(cache, source), range(8)))
    assert found == [b"tensors"] * 8
    assert len(source.fetches) == 1


def test_different_sources_are_fetched_in_parallel(cache):
    both = threading.Barrier(2, timeout=60)
    sources = [FakeSource(name, b"tensors", before=lambda _: both.wait()) for name in "ab"]
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(lambda source: content(cache, source), sources)) == [b"tensors"] * 2


def test_threads_in_a_crowded_cache_read_what_they_asked_for(directory):
    caches = [DiskCache(directory, 3000), DiskCache(directory, 3000)]

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(15):
            name = chance.choice("abcdefgh")
            expected = name.encode() * chance.choice([700, 900])
            source = FakeSource(name, expected, version=str(len(expected)))
            with chance.choice(caches).get_or_fetch(source, ignore) as checkpoint:
                time.sleep(0.002)
                assert (checkpoint.directory / TENSORS).read_bytes() == expected

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    content(caches[0], FakeSource("last", b"last"))
    assert sum(map(_size, adapters(directory))) <= 3000
    assert_nothing_unfinished(directory)


# --- the environment ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"LORAMUX_ADAPTER_CACHE_DIR": "/x/y"}, "/x/y"),
        ({"LORAMUX_ADAPTER_CACHE_DIR": "~/y", "XDG_CACHE_HOME": "/xdg"}, "/home/me/y"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/loramux/adapters"),
        ({"XDG_CACHE_HOME": "relative"}, "/home/me/.cache/loramux/adapters"),
        ({}, "/home/me/.cache/loramux/adapters"),
    ],
)
def test_the_environment_names_the_directory(monkeypatch, variables, expected):
    for name in ("LORAMUX_ADAPTER_CACHE_DIR", "LORAMUX_ADAPTER_CACHE_SIZE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", **variables}.items():
        monkeypatch.setenv(name, value)
    cache = DiskCache.from_environment()
    assert cache.directory == Path(expected)
    assert cache.max_bytes == 10 * 2**30


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("10GiB", 10 * 2**30),
        ("10 GB", 10**10),
        ("1.5k", 1500),
        ("2Mi", 2**21),
        ("7b", 7),
        ("1TiB", 2**40),
        ("", 99),
    ],
)
def test_sizes_are_read_as_people_write_them(monkeypatch, text, size):
    monkeypatch.setenv("SIZE", text)
    assert read_byte_size("SIZE", 99) == size


@pytest.mark.parametrize("text", ["0", "-1", "ten", "10PB", "1e9", "10 i", "0.5", "GiB"])
def test_other_sizes_are_refused(monkeypatch, text):
    monkeypatch.setenv("SIZE", text)
    with pytest.raises(EnvironmentVariableError, match=r"SIZE is .*; set it to a size such as"):
        read_byte_size("SIZE", 99)


def _size(entry: Path) -> int:
    return sum(file.stat().st_size for file in (entry / "files").iterdir())
