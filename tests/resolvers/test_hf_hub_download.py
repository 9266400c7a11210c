"""Fetching from the Hub: progress, ends, damage and limits, and paths that people write."""

from __future__ import annotations

import errno
import threading
import time
from pathlib import Path

import pytest
from huggingface_hub import constants
from hypothesis import given
from hypothesis import strategies as st

from loramux import LoRARequest
from loramux.errors import AdapterNotFoundError, AdapterRefusedError, AdapterUnavailableError
from loramux.lora.fetch.locate import locate
from loramux.lora.hub.errors import hub_errors
from loramux.lora.hub.source import HubPath, HubSource
from tests.resolvers.hub_server import HubServer, answer, cut, drip, drop, once, send, wait
from tests.resolvers.test_hf_hub import REPO, adapter, fetch

STORE = r"signature"
"""Matches requests to the store of large files."""

SIZE = 3_000_000


class Hurry(Exception):
    """Raised by a progress function that wants no more."""


@pytest.fixture
def source(hub: HubServer) -> HubSource:
    """An adapter of three megabytes in the root of a repository."""
    files = adapter() | {"adapter_model.safetensors": bytes(range(250)) * (SIZE // 250)}
    return HubSource(REPO, hub.repository(REPO).push(files))


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> float:
    """Seconds without a byte after which a download is given up."""
    monkeypatch.setenv("LORAMUX_LORA_RESOLVE_TIMEOUT", "0.8")
    return 0.8


def left_behind() -> list[Path]:
    return list(Path(constants.HF_HUB_CACHE).rglob("*.incomplete"))


def cached_weights(source: HubSource) -> bytes | None:
    directory = source.cached_directory()
    return None if directory is None else (directory / "adapter_model.safetensors").read_bytes()


# --- progress ---------------------------------------------------------------------------------


def test_progress_ends_with_every_byte(source, tmp_path, capfd):
    steps: list[tuple[int, int]] = []
    source.fetch(tmp_path, lambda done, total: steps.append((done, total)))
    assert steps == sorted(steps)
    assert steps[-1] == (SIZE + 21, SIZE + 21)
    assert list(tmp_path.glob("*.json")) == []
    assert capfd.readouterr() == ("", "")


def test_the_total_is_known_from_the_start_where_the_listing_told_it(source, tmp_path):
    totals = set()
    listed = HubSource(REPO, source.commit, num_bytes=SIZE + 21)
    listed.fetch(tmp_path, lambda done, total: totals.add(total))
    assert totals == {SIZE + 21}


def test_bytes_are_counted_as_they_come(hub, source, tmp_path):
    hub.when(STORE, drip(stop := threading.Event(), SIZE))
    seen: list[int] = []

    def watch(done: int, total: int) -> None:
        seen.append(done)
        if done > 30:
            raise Hurry

    with pytest.raises(Hurry):
        source.fetch(tmp_path, watch)
    assert len(set(seen)) > 2
    assert stop.wait(60)


# --- ends -------------------------------------------------------------------------------------


def test_a_drip_is_ended_when_progress_raises_and_nothing_remains(hub, source, tmp_path):
    hub.when(STORE, drip(was_left := threading.Event(), SIZE))
    deadline = time.monotonic() + 0.5

    def until_deadline(done: int, total: int) -> None:
        if hub.log(STORE) and time.monotonic() > deadline:
            raise Hurry

    with pytest.raises(Hurry):
        source.fetch(tmp_path, until_deadline)
    assert was_left.wait(60)
    while left_behind() and time.monotonic() < deadline + 60:
        time.sleep(0.05)
    assert left_behind() == []
    assert len(hub.log(STORE)) == 1
    hub.behave()
    fetch(source, tmp_path)
    assert len(cached_weights(source)) == SIZE


def test_ending_one_download_leaves_the_others_alone(hub, source, tmp_path):
    hub.when(STORE, once(drip(threading.Event(), SIZE)))
    other = HubSource("org/other", hub.repository("org/other").push(adapter("o")))

    def fetch_other_and_stop(done: int, total: int) -> None:
        if done > 21:
            fetch(other, tmp_path)
            raise Hurry

    with pytest.raises(Hurry):
        source.fetch(tmp_path, fetch_other_and_stop)
    assert cached_weights(other) == b"o" * 500


@pytest.mark.parametrize("pattern", ["HEAD .*json", "HEAD .*safetensors", STORE])
def test_silence_is_not_waited_out(hub, source, tmp_path, patience, pattern):
    hub.when(pattern, wait(60))
    start = time.monotonic()
    with pytest.raises(AdapterUnavailableError, match="; try again later"):
        fetch(source, tmp_path)
    assert time.monotonic() < start + 30
    assert cached_weights(source) is None


def test_a_hub_that_is_away_is_tried_once(hub, source, tmp_path):
    hub.close()
    start, threads = time.monotonic(), threading.enumerate()
    with pytest.raises(AdapterUnavailableError, match=r"does not answer .* try again later"):
        fetch(source, tmp_path)
    assert time.monotonic() < start + 10  # of 23, for which huggingface_hub tries by itself
    assert set(threading.enumerate()) <= set(threads)


# --- faults -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [drop, cut])
def test_a_transfer_that_breaks_off_is_taken_up_again(hub, source, tmp_path, fault):
    hub.when(STORE, once(fault))
    fetch(source, tmp_path)
    assert cached_weights(source) == bytes(range(250)) * (SIZE // 250)
    assert left_behind() == []


@pytest.mark.parametrize(("file", "status"), [("json", 500), ("safetensors", 429)])
def test_a_server_error_is_a_matter_of_trying_again(hub, source, tmp_path, patience, file, status):
    hub.when(f"HEAD .*{file}", answer(status))
    with pytest.raises(AdapterUnavailableError, match="try again later"):
        fetch(source, tmp_path)


@pytest.mark.parametrize("status", [403, 500])
def test_a_store_that_refuses_is_told_without_its_address(hub, source, tmp_path, status):
    hub.when(STORE, answer(status))
    with pytest.raises((AdapterRefusedError, AdapterUnavailableError)) as told:
        fetch(source, tmp_path)
    assert str(status) in str(told.value)
    assert "signature" not in str(told.value)
    assert left_behind() == []


def test_a_hub_that_refuses_a_file_is_told_with_what_to_do(hub, source, tmp_path):
    hub.when("HEAD .*safetensors", answer(403))
    told = rf"refuses access to {REPO} with status 403; .*HF_TOKEN"
    with pytest.raises(AdapterRefusedError, match=told):
        fetch(source, tmp_path)


def test_a_hub_that_has_lost_a_file_is_told_as_such(hub, source, tmp_path):
    hub.when("HEAD .*safetensors", answer(404))
    with pytest.raises(AdapterNotFoundError, match=r"has no file 'adapter_model\.safetensors'"):
        fetch(source, tmp_path)


def test_other_bytes_of_the_same_size_are_never_served(hub, source, tmp_path):
    hub.when(STORE, send(b"\0" * SIZE))
    with pytest.raises(AdapterUnavailableError, match=r"damaged .* SHA-256"):
        fetch(source, tmp_path)
    assert cached_weights(source) is None
    hub.behave()
    fetch(source, tmp_path)
    assert cached_weights(source) == bytes(range(250)) * (SIZE // 250)


@pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1, 0])
def test_another_number_of_bytes_is_never_served(hub, source, tmp_path, size):
    hub.when(STORE, send(b"\0" * size))
    with pytest.raises(AdapterUnavailableError):
        fetch(source, tmp_path)
    assert cached_weights(source) is None
    assert left_behind() == []


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_file_that_is_not_there_is_named(hub, tmp_path, name):
    files = adapter(directory="a")
    del files[f"a/{name}"]
    incomplete = HubSource(REPO, hub.repository(REPO).push(files), "a")
    with pytest.raises(AdapterNotFoundError, match=rf"has no file 'a/{name}' in {REPO}"):
        fetch(incomplete, tmp_path)


def test_a_full_disk_is_told_as_such():
    with (
        pytest.raises(AdapterUnavailableError, match=r"No space left on device\); make room"),
        hub_errors(REPO, "file 'x'"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device", "/cache/x")


def test_a_cache_that_cannot_note_branches_is_good_enough(hub, source, tmp_path):
    fetch(source, tmp_path)
    references = Path(constants.HF_HUB_CACHE, "models--org--adapters", "refs")
    references.write_text("not a directory")
    branch = HubSource(REPO, source.commit, branch="main")
    assert fetch(branch, tmp_path) == source.cached_directory()
    assert references.read_text() == "not a directory"


def test_two_at_once_download_once(hub, source, tmp_path):
    found: list[Path] = []

    def fetch_it() -> None:
        found.append(fetch(source, tmp_path))

    threads = [threading.Thread(target=fetch_it) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [source.cached_directory()] * 2
    assert len(hub.log(STORE)) == 1


# --- size -------------------------------------------------------------------------------------


def test_too_large_an_adapter_is_not_asked_for(hub, source, tmp_path, monkeypatch):
    monkeypatch.setenv("LORAMUX_MAX_ADAPTER_BYTES", str(SIZE + 20))
    listed = HubSource(REPO, source.commit, num_bytes=SIZE + 21)
    with pytest.raises(
        AdapterRefusedError,
        match=rf"{REPO}@{source.commit} has 3,000,021 bytes, more than the 3,000,020 that "
        "LORAMUX_MAX_ADAPTER_BYTES allows; raise it",
    ):
        fetch(listed, tmp_path)
    assert hub.requests == []


def test_where_no_listing_told_the_size_the_content_is_not_waited_for(
    hub, source, tmp_path, monkeypatch, patience
):
    monkeypatch.setenv("LORAMUX_MAX_ADAPTER_BYTES", str(SIZE + 20))
    hub.when(STORE, once(drip(threading.Event(), SIZE)))
    with pytest.raises(AdapterRefusedError, match="LORAMUX_MAX_ADAPTER_BYTES"):
        fetch(source, tmp_path)
    assert cached_weights(source) is None
    assert left_behind() == []
    monkeypatch.setenv("LORAMUX_MAX_ADAPTER_BYTES", str(SIZE + 21))
    monkeypatch.delenv("LORAMUX_LORA_RESOLVE_TIMEOUT")
    fetch(source, tmp_path)
    assert len(cached_weights(source)) == SIZE


# --- paths that people write ------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", "@main", "@{commit}", "/sub", "/sub@main", "/sub@{commit}"])
def test_a_request_may_name_an_adapter_on_the_hub(hub, suffix, tmp_path):
    commit = hub.repository(REPO).push(adapter() | adapter("s", "sub"))
    directory = fetch(
        locate(LoRARequest("a", 1, REPO + suffix.format(commit=commit))).source, tmp_path
    )
    assert directory.parts[-2 if "sub" in suffix else -1] == commit
    assert {path.name for path in directory.iterdir()} >= {"adapter_config.json"}
    assert len(hub.log("/api/")) == (0 if "{" in suffix else 1)


@pytest.mark.parametrize("path", ["org/missing", f"{REPO}@missing"])
def test_a_request_for_what_is_not_there_says_where_was_looked(hub, path):
    hub.repository(REPO).push(adapter())
    with pytest.raises(AdapterNotFoundError, match=f"{path}: it is no directory here, and the Hug"):
        locate(LoRARequest("a", 1, path))


@pytest.mark.parametrize("path", ["/no/such", "./no/such", "~/no", f"{REPO}/adapters/no"])
def test_the_hub_is_not_asked_for_what_was_meant_to_be_here(hub, path, tmp_path, monkeypatch):
    hub.repository(REPO).push(adapter("no", "adapters"))
    (tmp_path / REPO).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AdapterNotFoundError, match="there is no such directory; check the path"):
        locate(LoRARequest("a", 1, path))
    assert hub.log("") == []
    locate(LoRARequest("a", 1, f"{REPO}/adapters@main"))  # an explicit revision is the Hub's


def test_a_path_that_a_repository_does_not_have_is_not_found(hub, tmp_path):
    hub.repository(REPO).push(adapter())
    source = locate(LoRARequest("a", 1, f"{REPO}/missing")).source
    with pytest.raises(AdapterNotFoundError, match=rf"'missing/adapter_\w+\.\w+' in {REPO}"):
        fetch(source, tmp_path)


def test_a_request_is_served_from_the_cache_while_the_hub_is_away(hub, caplog, tmp_path):
    hub.repository(REPO).push(adapter())
    directory = fetch(locate(LoRARequest("a", 1, REPO)).source, tmp_path)
    hub.close()
    assert fetch(locate(LoRARequest("a", 1, REPO)).source, tmp_path) == directory
    assert "is served from the local cache" in caplog.text
    with pytest.raises(
        AdapterUnavailableError,
        match=r"^org/other is no directory here, and the Hug.* try again later",
    ):
        locate(LoRARequest("a", 1, "org/other"))


_part = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,5}[a-z0-9]", fullmatch=True).filter(
    lambda part: not any(bad in part for bad in ("--", "..", ".git"))
)
_component = st.from_regex(r"[^./\\@:\W][\w +=-]{0,5}", fullmatch=True)
_components = st.lists(_component, max_size=3).map("/".join)


@given(org=_part, name=_part, subpath=_components, revision=_components)
def test_a_path_is_read_as_it_is_written(org, name, subpath, revision):
    path = HubPath(f"{org}/{name}", subpath, revision or None)
    assert HubPath.parse(str(path)) == path


@given(st.text() | st.text("a/.@\\:-"))
def test_whatever_is_read_leads_nowhere_else(text):
    path = HubPath.parse(text)
    if path is not None:
        assert str(path) == text
        parts = [path.repo_id, path.subpath, path.revision or ""]
        assert not any(c in part for part in parts for c in "\\@:\0\n")
        assert path.repo_id.count("/") == 1
        components = "/".join(part for part in parts if part).split("/")
        assert not any(part == "" or part.startswith(".") for part in components)
