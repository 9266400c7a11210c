"""The session that all users of huggingface_hub share is closed under somebody who uses it."""

from __future__ import annotations

import time

import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import hf_raise_for_status

from loramux.errors import AdapterUnavailableError
from loramux.lora.hub.session import MAX_CLOSINGS, again_if_closed
from loramux.lora.hub.source import HubSource
from tests.resolvers.hub_server import Handler, HubServer, answer, downloads_under_way, once
from tests.resolvers.test_hf_hub import REPO, adapter, fetch, find, resolver

SIZE = 3_000_000


@pytest.fixture
def source(hub: HubServer) -> HubSource:
    """An adapter of three megabytes in the root of a repository."""
    files = adapter() | {"adapter_model.safetensors": bytes(range(250)) * (SIZE // 250)}
    return HubSource(REPO, hub.repository(REPO).push(files))


def close_session(handler: Handler) -> bool:
    """Do what huggingface_hub does when another of its calls finds no connection."""
    huggingface_hub.close_session()
    return False


def close_session_in_the_midst(handler: Handler) -> bool:
    """The same, with half of a file sent."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(SIZE))
    handler.end_headers()
    handler.wfile.write(bytes(range(250)) * (SIZE // 500))
    handler.wfile.flush()
    time.sleep(0.1)
    huggingface_hub.close_session()
    handler.close_connection = True
    return True


@pytest.mark.parametrize("question", ["/revision/", "/tree/"])
def test_a_question_is_asked_again(hub, source, question):
    hub.when(question, once(close_session))
    assert find(resolver(), REPO) == source
    assert len(hub.log(question)) == 2


@pytest.mark.parametrize("request_line", ["HEAD .*safetensors", "HEAD .*json", "signature"])
def test_a_download_goes_on(hub, source, tmp_path, request_line):
    hub.when(request_line, once(close_session))
    directory = fetch(source, tmp_path)
    assert (directory / "adapter_model.safetensors").stat().st_size == SIZE


def test_a_download_that_had_half_of_a_file_has_the_whole_in_the_end(hub, source, tmp_path):
    hub.when("signature", once(close_session_in_the_midst))
    steps: list[tuple[int, int]] = []
    directory = source.fetch(tmp_path, lambda done, total: steps.append((done, total)))
    weights = (directory / "adapter_model.safetensors").read_bytes()
    assert weights == bytes(range(250)) * (SIZE // 250)
    assert steps[-1] == (SIZE + 21, SIZE + 21)


def test_a_limit_of_size_counts_no_byte_twice(hub, source, tmp_path, monkeypatch):
    monkeypatch.setenv("LORAMUX_MAX_ADAPTER_BYTES", str(SIZE + 21))
    hub.when("signature", once(close_session_in_the_midst))
    fetch(source, tmp_path)


def test_an_answer_of_the_hub_stands(hub):
    def ask() -> None:
        told = huggingface_hub.get_session().get(f"{hub.endpoint}/nothing")
        huggingface_hub.close_session()
        hf_raise_for_status(told)

    with pytest.raises(HfHubHTTPError, match="404"):
        again_if_closed(ask)
    assert len(hub.log("/nothing")) == 1


def test_who_is_always_interrupted_is_told_so_in_the_end(hub, source, tmp_path):
    hub.when("HEAD .*safetensors", close_session)
    with pytest.raises(AdapterUnavailableError, match="; try again later"):
        fetch(source, tmp_path)
    assert len(hub.log("HEAD .*safetensors")) <= MAX_CLOSINGS + 1


def test_nothing_is_tried_again_while_the_session_is_open():
    calls = []

    def fail() -> None:
        calls.append(1)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        again_if_closed(fail)
    assert len(calls) == 1


def test_a_download_that_is_left_ends_although_the_session_is_another(hub, source, tmp_path):
    hub.when("HEAD .*json", answer(503))

    def leave_between_two_tries(done: int, total: int) -> None:
        if len(hub.log("HEAD .*json")) == 2:  # the first one is huggingface_hub's quick look
            raise TimeoutError

    with pytest.raises(TimeoutError):
        source.fetch(tmp_path, leave_between_two_tries)
    assert downloads_under_way(), "it waits, to try again in a second"
    huggingface_hub.close_session()
    for thread in downloads_under_way():
        thread.join(60)
    assert downloads_under_way() == []
    assert len(hub.log("HEAD .*json")) == 2
