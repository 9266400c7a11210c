"""Requests that name an adapter, and the two routes that load and unload one."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import APIStatusError, BadRequestError, NotFoundError

from loramux.errors import AdapterNotFoundError, AdapterRefusedError, AdapterUnavailableError
from tests.server.fake_engine import digest_of
from tests.server.running_server import RunningServer, wait_until
from tests.server.test_disconnect import raw_request


def ask(server: RunningServer, model: str, **settings: Any) -> httpx.Response:
    with server.http() as client:
        body = {"model": model, "prompt": "ab", "max_tokens": 2, **settings}
        return client.post("/v1/completions", json=body)


def load(server: RunningServer, name: str, path: object, **more: Any) -> httpx.Response:
    with server.http() as client:
        body = {"lora_name": name, "lora_path": str(path), **more}
        return client.post("/v1/load_lora_adapter", json=body)


def unload(server: RunningServer, name: str) -> httpx.Response:
    with server.http() as client:
        return client.post("/v1/unload_lora_adapter", json={"lora_name": name})


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint"
    path.mkdir()
    return path


def test_a_name_nobody_has_heard_is_found_and_served(server: RunningServer, adapter: str) -> None:
    server.engine.load_seconds = 0.02
    first = ask(server, adapter)
    assert first.json()["choices"][0]["text"] == "AB"
    assert first.json()["model"] == adapter
    (request, _) = server.engine.adapters[0], server.engine.loads
    assert first.headers["x-loramux-adapter-digest"] == digest_of(request)
    assert first.headers["x-loramux-adapter-found-by"] == "folder"
    assert int(first.headers["x-loramux-adapter-load-ms"]) >= 20
    second = ask(server, adapter, stream=True)
    assert second.headers["x-loramux-adapter-digest"] == digest_of(request)
    assert second.headers["x-loramux-adapter-load-ms"] == "0"
    assert len(server.engine.loads) == 1


def test_the_base_model_has_no_adapter_headers(server: RunningServer) -> None:
    response = ask(server, "base")
    assert not [name for name in response.headers if name.startswith("x-loramux-adapter")]


def test_adapters_answer_chats_too(server: RunningServer, adapter: str) -> None:
    answer = server.openai().chat.completions.create(
        model=adapter, messages=[{"role": "user", "content": "x"}], max_tokens=5
    )
    assert answer.choices[0].message.content == "<USER"


def test_many_who_ask_at_once_share_one_search(
    server: RunningServer, adapter: str, resolver: Any
) -> None:
    server.engine.is_held = True
    num_joins = server.state.catalog.num_joins
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(ask(server, adapter).status_code))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: server.state.catalog.num_joins == num_joins + 5)
    server.engine.is_held = False
    for thread in threads:
        thread.join()
    assert statuses == [200] * 6
    assert resolver.questions == [adapter]
    assert len(server.engine.loads) == 1


@pytest.mark.parametrize(
    ("error", "status"),
    [(AdapterRefusedError("rank 99 is over."), 400), (AdapterUnavailableError("S3 is off."), 503)],
)
def test_an_adapter_that_cannot_be_loaded_leaves_nothing_behind(
    server: RunningServer, adapter: str, folder: Path, error: Exception, status: int
) -> None:
    server.engine.load_failures[str(folder / adapter)] = error
    response = ask(server, adapter)
    assert response.status_code == status
    assert response.json()["error"]["message"] == str(error)
    assert (response.headers.get("retry-after") is not None) == (status == 503)
    assert adapter not in [model.id for model in server.openai().models.list()]
    server.engine.load_failures.clear()
    assert ask(server, adapter).status_code == 200


def test_a_resolver_that_cannot_tell_is_not_a_404(
    server: RunningServer, adapter: str, resolver: Any
) -> None:
    resolver.error = ConnectionError("secret host")
    response = ask(server, adapter)
    assert response.status_code == 503
    assert "secret" not in response.text
    assert failures_shown(server)["in_a_row"] == 1
    resolver.error = None
    assert ask(server, adapter).status_code == 200
    shown = failures_shown(server)
    assert (shown["name"], shown["in_a_row"]) == ("folder", 0)
    assert shown["total"] >= 1


def failures_shown(server: RunningServer) -> dict[str, Any]:
    with server.http() as client:
        (shown,) = client.get("/v1/adapters").json()["resolver_failures"]
    return shown


def test_an_adapter_whose_directory_went_away_is_looked_up_again(
    server: RunningServer, adapter: str, folder: Path, resolver: Any
) -> None:
    assert ask(server, adapter).status_code == 200
    shutil.rmtree(folder / adapter)
    assert ask(server, adapter).status_code == 404
    assert resolver.questions == [adapter, adapter]


def test_models_lists_the_base_and_what_was_found(
    server: RunningServer, adapter: str, folder: Path
) -> None:
    ask(server, adapter)
    client = server.openai()
    cards = {card.id: card for card in client.models.list()}
    with server.http() as http:
        assert http.get("/v1/models/").json() == http.get("/v1/models").json()
    assert list(cards)[:2] == ["base", "tiny"]
    assert cards["base"].owned_by == "loramux"
    assert (cards["base"].root, cards["base"].parent) == ("tiny/base", None)
    assert (cards[adapter].root, cards[adapter].parent) == (str(folder / adapter), "base")
    assert cards[adapter].max_model_len == server.engine.max_model_len
    assert cards[adapter].permission[0]["allow_sampling"] is True
    assert client.models.retrieve(adapter) == cards[adapter]


def test_adapters_tells_where_each_came_from(server: RunningServer, adapter: str) -> None:
    ask(server, adapter)
    with server.http() as client:
        rows = {row["name"]: row for row in client.get("/v1/adapters").json()["data"]}
    row = rows[adapter]
    assert row["found_by"] == "folder"
    assert row["digest"] == digest_of(server.engine.loads[0])
    assert (row["rank"], row["tier"], row["num_bytes"]) == (8, "host", 1024)
    assert row["load_seconds"] == {"read": 0.25}


def test_load_serve_unload(server: RunningServer, checkpoint: Path) -> None:
    answer = load(server, "mine", checkpoint)
    assert answer.text == "Success: LoRA adapter 'mine' added successfully."
    response = ask(server, "mine")
    assert response.headers["x-loramux-adapter-found-by"] == "registered"
    assert unload(server, "mine").text == "Success: LoRA adapter 'mine' removed successfully."
    assert ask(server, "mine").status_code == 404


def test_load_in_place_is_for_one_load(server: RunningServer, checkpoint: Path) -> None:
    load(server, "mine", checkpoint)
    again = load(server, "mine", checkpoint, load_inplace=True)
    assert again.status_code == 200
    assert server.engine.loads[-1].load_inplace is True
    ask(server, "mine")
    assert server.engine.adapters[-1].load_inplace is False
    unload(server, "mine")


def test_refusals_in_vllms_words(server: RunningServer, checkpoint: Path, tmp_path: Path) -> None:
    server.engine.load_failures = {
        str(checkpoint): AdapterRefusedError("rank 99 is over."),
        "/nowhere": AdapterNotFoundError("it is no directory."),
        "/down": AdapterUnavailableError("the Hub does not answer."),
    }
    load(server, "taken", tmp_path)
    for name, path, status, kind, message in (
        ("", "x", 400, "InvalidUserInput", "Both 'lora_name' and 'lora_path' must be provided."),
        ("x", "", 400, "InvalidUserInput", "Both 'lora_name' and 'lora_path' must be provided."),
        ("n" * 513, str(checkpoint), 400, "InvalidUserInput",
         "A name has at most 512 characters, and this one 513; shorten 'lora_name'."),
        ("base", tmp_path, 400, "InvalidUserInput",
         "The lora adapter 'base' conflicts with a served base model."),
        ("taken", tmp_path, 400, "InvalidUserInput",
         "The lora adapter 'taken' has already been loaded. If you want to load the adapter in "
         "place, set 'load_inplace' to True."),
        ("x", "/nowhere", 404, "NotFoundError",
         "Loading lora x failed: No adapter found for /nowhere"),
        ("x", checkpoint, 400, "BadRequestError",
         "Call to add_lora method failed: rank 99 is over."),
        ("x", "/down", 503, "ServiceUnavailableError", "the Hub does not answer."),
    ):  # fmt: skip
        response = load(server, name, path)
        error = response.json()["error"]
        assert (response.status_code, error["type"], error["message"]) == (status, kind, message)
    unload(server, "taken")
    assert server.engine.unloaded[-1] == "taken"
    missing = unload(server, "taken")
    assert missing.status_code == 404
    assert missing.json()["error"]["message"] == "The lora adapter 'taken' cannot be found."
    nameless = unload(server, "")
    assert nameless.status_code == 400
    assert nameless.json()["error"]["message"] == (
        "'lora_name' needs to be provided to unload a LoRA adapter."
    )


def test_a_found_adapter_can_be_unloaded_and_is_looked_up_again(
    server: RunningServer, adapter: str, resolver: Any
) -> None:
    ask(server, adapter)
    assert unload(server, adapter).status_code == 200
    ask(server, adapter)
    assert resolver.questions == [adapter, adapter]


def test_a_client_that_leaves_during_a_load_ends_the_load(
    server: RunningServer, adapter: str, resolver: Any
) -> None:
    server.engine.is_held = True
    with raw_request(server, {"model": adapter, "prompt": "ab"}):
        wait_until(lambda: server.engine.loads)
    wait_until(lambda: server.engine.loads_cancelled == 1, 30)  # a search ends by itself after 60
    assert server.state.catalog.known(adapter) is None
    server.engine.is_held = False
    assert ask(server, adapter).status_code == 200


def test_a_client_that_leaves_does_not_end_the_load_for_others(
    server: RunningServer, adapter: str
) -> None:
    server.engine.is_held = True
    statuses: list[int] = []
    patient = threading.Thread(target=lambda: statuses.append(ask(server, adapter).status_code))
    patient.start()
    wait_until(lambda: server.engine.loads)
    num_joins = server.state.catalog.num_joins
    with raw_request(server, {"model": adapter, "prompt": "ab"}):
        wait_until(lambda: server.state.catalog.num_joins == num_joins + 1)
    wait_until(lambda: server.state.queue.in_flight == 1)
    server.engine.is_held = False
    patient.join()
    assert statuses == [200]
    assert server.engine.loads_cancelled == 0
    assert len(server.engine.loads) == 1


def test_the_official_client_reads_the_statuses(server: RunningServer, adapter: str) -> None:
    client = server.openai()
    with pytest.raises(NotFoundError):
        client.models.retrieve(adapter)
    server.engine.load_failures = {str(path): AdapterRefusedError("no.") for path in [1]}
    with pytest.raises(BadRequestError):
        client.completions.create(model="base", prompt=[])
    with pytest.raises(APIStatusError):
        client.completions.create(model="nobody", prompt="ab", stream=True)
