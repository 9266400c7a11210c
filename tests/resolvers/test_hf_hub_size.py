"""What loramux fetches into the Hugging Face cache stays within a size; all else stays there."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock
from huggingface_hub import (
    HFCacheInfo,
    constants,
    file_download,
    hf_hub_download,
    scan_cache_dir,
)

from loramux.errors import AdapterError
from loramux.lora.disk_cache.cache import DiskCache
from loramux.lora.hub import ledger
from loramux.lora.hub.cache import cached_commit
from loramux.lora.hub.record import Record
from loramux.lora.hub.source import HubSource
from tests.resolvers.hub_server import HubServer, answer, drip
from tests.resolvers.test_hf_hub import REPO, adapter

BYTES = 521
"""Of one adapter: 21 of its configuration, which all share, and 500 of its own."""

STORE = r"signature"
"""Matches requests to the store of large files."""


@pytest.fixture
def commit(hub: HubServer) -> str:
    files = {"README.md": b"#" * 300}
    for name in "abcd":
        files |= adapter(name, name)
    return hub.repository(REPO).push(files)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "loramux"


def use(cache: DiskCache, commit: str, name: str) -> bytes:
    with held(cache, commit, name) as weights:
        return weights


@contextmanager
def held(cache: DiskCache, commit: str, name: str, branch: str | None = None):
    source = HubSource(REPO, commit, name, branch, BYTES)
    with cache.get_or_fetch(source, lambda done, total: None) as checkpoint:
        yield (checkpoint.directory / "adapter_model.safetensors").read_bytes()


def is_cached(commit: str, name: str) -> bool:
    return HubSource(REPO, commit, name).cached_directory() is not None


def cached(commit: str) -> str:
    return "".join(name for name in "abcd" if is_cached(commit, name))


def files_in_cache() -> list[str]:
    """All files of repositories; huggingface_hub's own locks and notes stay."""
    found = Path(constants.HF_HUB_CACHE).glob("models--*/**/*")
    return sorted(path.name for path in found if path.is_symlink() or path.is_file())


def scan() -> HFCacheInfo:
    """What huggingface_hub itself says of its cache."""
    return scan_cache_dir(constants.HF_HUB_CACHE)


def records(directory: Path) -> list[Path]:
    return list((directory / "hub").glob("*.json"))


def by_another_tool(commit: str, *files: str) -> None:
    for file in files:
        hf_hub_download(REPO, file, revision=commit)


# --- within its size ----------------------------------------------------------------------------


def test_the_least_recently_used_makes_room(commit, directory):
    cache = DiskCache(directory, 3 * BYTES)
    for name in "abcacd":
        assert use(cache, commit, name) == name.encode() * 500
    assert cached(commit) == "acd"
    assert scan().size_on_disk == 21 + 3 * 500
    assert not scan().warnings


def test_adapters_of_a_few_bytes_are_bounded_too(commit, directory, monkeypatch):
    monkeypatch.setattr(ledger, "MAX_RECORDS", 2)
    cache = DiskCache(directory, 10**9)
    for name in "abac":
        assert use(cache, commit, name) == name.encode() * 500
    assert cached(commit) == "ac"
    assert len(records(directory)) == 2


def test_what_made_room_is_fetched_again(commit, directory, hub):
    cache = DiskCache(directory, BYTES)
    for name in "aba":
        assert use(cache, commit, name) == name.encode() * 500
    assert len(hub.log(f"GET .*{STORE}")) == 3


def test_room_is_made_before_the_bytes_arrive(hub, commit, directory):
    cache = DiskCache(directory, BYTES)
    use(cache, commit, "a")
    seen = []
    hub.when(f"GET .*{STORE}", lambda handler: seen.append(cached(commit)))
    use(cache, commit, "b")
    assert seen == [""]


def test_what_is_in_use_stays(commit, directory):
    cache = DiskCache(directory, 1)
    with held(cache, commit, "a"):
        use(cache, commit, "b")
        assert cached(commit) == "a"
    use(cache, commit, "b")
    assert cached(commit) == ""


def test_what_another_process_uses_stays(commit, directory):
    cache = DiskCache(directory, BYTES)
    use(cache, commit, "a")
    (record,) = records(directory)
    hold = (
        "import fcntl, sys; file = open(sys.argv[1]); fcntl.flock(file, fcntl.LOCK_SH);"
        "print('held', flush=True); sys.stdin.readline()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, record], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        use(cache, commit, "b")
        assert "a" in cached(commit)
        process.communicate(b"\n")
    use(cache, commit, "c")
    assert cached(commit) == "c"


def test_a_content_that_several_commits_share_counts_once_and_stays_for_the_last(hub, directory):
    cache = DiskCache(directory, 2 * BYTES)
    commits = [hub.repository(REPO).push(adapter("s") | {"n": str(n).encode()}) for n in range(3)]
    commits.append(hub.repository(REPO).push(adapter("t")))
    for commit in commits:
        use(cache, commit, "")
    assert all(is_cached(commit, "") for commit in commits)
    with held(cache, commits[0], ""):
        use(cache, hub.repository(REPO).push(adapter("u")), "")
        assert [is_cached(commit, "") for commit in commits] == [True, False, False, False]
    assert use(cache, commits[0], "") == b"s" * 500


def test_a_branch_whose_commit_made_room_is_forgotten(hub, directory):
    cache = DiskCache(directory, BYTES)
    for name in ("refs/pr/1", "main"):
        commit = hub.repository(REPO).push(adapter(name[0]), branch=name)
        with held(cache, commit, "", branch=name):
            assert cached_commit(REPO, name) == commit
    assert cached_commit(REPO, "refs/pr/1") is None
    assert cached_commit(REPO, "main") == commit
    assert not scan().warnings


def test_on_a_full_disk_what_nobody_uses_makes_way(commit, directory, monkeypatch):
    """The disk has room for one adapter, and huggingface_hub finds out as it writes."""
    copy = file_download.http_get

    def http_get(*args, **kwargs):
        if is_cached(commit, "a"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        copy(*args, **kwargs)

    monkeypatch.setattr(file_download, "http_get", http_get)
    cache = DiskCache(directory, 10**6)
    with held(cache, commit, "a"), pytest.raises(AdapterError, match="could not be stored in"):
        use(cache, commit, "b")
    assert use(cache, commit, "b") == b"b" * 500
    assert cached(commit) == "b"


# --- what is not loramux's ----------------------------------------------------------------------


def test_what_was_there_before_is_used_and_never_removed(commit, directory, hub):
    by_another_tool(commit, "a/adapter_config.json", "a/adapter_model.safetensors")
    hub.close()
    cache = DiskCache(directory, 1)
    assert use(cache, commit, "a") == b"a" * 500
    assert cached(commit) == "a"
    assert records(directory) == []


def test_only_the_missing_file_is_removed_again(commit, directory):
    by_another_tool(commit, "a/adapter_config.json", "README.md")
    before = files_in_cache()
    use(DiskCache(directory, 1), commit, "a")
    assert files_in_cache() == before


def test_a_content_that_another_commit_of_the_users_has_stays(hub, directory):
    theirs = hub.repository(REPO).push(adapter("s") | {"n": b"1"})
    by_another_tool(theirs, "adapter_config.json", "adapter_model.safetensors")
    before = files_in_cache()
    assert use(DiskCache(directory, 1), hub.repository(REPO).push(adapter("s")), "") == b"s" * 500
    assert files_in_cache() == before
    assert is_cached(theirs, "")


def test_what_the_user_removed_is_no_trouble(commit, directory):
    cache = DiskCache(directory, 2 * BYTES)
    use(cache, commit, "a")
    scan().delete_revisions(commit).execute()
    for name in "bcd":
        use(cache, commit, name)
    assert cached(commit) == "cd"
    assert len(records(directory)) == 2


# --- broken off ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [answer(403), answer(500)])
def test_a_download_that_fails_leaves_nothing(hub, commit, directory, fault):
    hub.when(f"GET .*{STORE}", fault)
    cache = DiskCache(directory, 10**6)
    with pytest.raises(AdapterError):
        use(cache, commit, "a")
    assert files_in_cache() == []
    assert records(directory) == []


@pytest.fixture
def killed(hub, commit, directory):
    """A process was killed in the midst of a download."""
    stop = threading.Event()
    arrived = threading.Event()

    def begin(handler):
        arrived.set()
        return drip(stop, 500)(handler)

    hub.when(f"GET .*{STORE}", begin)
    program = (
        "import sys; from pathlib import Path; from loramux.lora.hub.source import HubSource;"
        "from loramux.lora.disk_cache.cache import DiskCache;"
        f"DiskCache(Path(sys.argv[1]), 10**6).get_or_fetch(HubSource({REPO!r}, sys.argv[2], 'a'),"
        "lambda done, total: print(done, flush=True) if done > 21 else None)"
    )
    environment = {
        **os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_CACHE": constants.HF_HUB_CACHE, "PYTHONPATH": os.pathsep.join(sys.path),
    }  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-c", program, str(directory), commit],
        stdout=subprocess.PIPE, env=environment,
    ) as process:  # fmt: skip
        assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    stop.set()
    hub.behave()
    assert any(name.endswith(".incomplete") for name in files_in_cache())


@pytest.mark.usefixtures("killed")
def test_a_start_removes_what_a_killed_process_left(directory):
    DiskCache(directory, 10**6)
    assert files_in_cache() == []
    assert records(directory) == []


@pytest.mark.usefixtures("killed")
def test_the_next_download_is_whole_and_removes_what_a_killed_process_left(commit, directory):
    cache = DiskCache(directory, 10**6)
    assert use(cache, commit, "a") == b"a" * 500
    assert len(files_in_cache()) == 4


@pytest.fixture
def running(directory: Path) -> DiskCache:
    """The cache of a process that does not start only now."""
    return DiskCache(directory, 10**6)


def test_a_process_that_runs_already_removes_what_a_killed_one_left(running, killed, commit):
    assert use(running, commit, "a") == b"a" * 500
    assert len(files_in_cache()) == 4
    (record,) = records(running.directory)
    assert len(Record.read(record).files) == 2


@pytest.mark.usefixtures("killed")
def test_while_others_download_from_the_repository_nothing_unfinished_is_removed(commit, directory):
    locks = Path(constants.HF_HUB_CACHE, ".locks", f"models--{REPO.replace('/', '--')}")
    before = files_in_cache()
    with FileLock(locks / "theirs.lock"):
        DiskCache(directory, 10**6)
        assert files_in_cache() == before
    DiskCache(directory, 10**6)
    assert files_in_cache() == []


def test_a_record_that_was_never_written_is_no_trouble(commit, directory):
    (directory / "incoming").mkdir(parents=True)
    (directory / "hub").mkdir()
    (directory / "hub" / "of-a-killed-process.json").touch()
    cache = DiskCache(directory, 10**6)
    assert records(directory) == []
    assert use(cache, commit, "a") == b"a" * 500
