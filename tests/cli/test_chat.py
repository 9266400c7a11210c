"""``loramux chat`` talks to a model it loads, and to a server."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loramux.cli import main
from loramux.cli.chat_partners import RemotePartner
from loramux.server.access.keyring import Keyring
from tests.server.checkpoints import greedy, save_adapter, save_model
from tests.server.conftest import FolderResolver, state_around
from tests.server.fake_engine import FakeEngine
from tests.server.running_server import RunningServer, running

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
GREEDY = ["--max-tokens", "6", "--temperature", "0"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("checkpoints") / "model")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("adapters")
    (folder / "red").mkdir()
    with running(state_around(FakeEngine(), FolderResolver(folder))) as server:
        yield server


def say(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines) + "\n"))


@pytest.mark.parametrize("is_adapter", [False, True])
def test_a_model_of_its_own(
    model: Path,
    is_adapter: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = save_adapter(model.parent / "adapter", model, seed=1) if is_adapter else None
    first = greedy(model, path, "<user>hi<assistant>", 6)
    second = greedy(model, path, f"<user>hi<assistant>{first}<user>so<assistant>", 6)
    say(monkeypatch, "hi", "", "so", "/new", "hi", "/exit", "never asked")
    lora = ["--lora", str(path)] if path else []
    assert main(["chat", str(model), *lora, *GREEDY]) == 0
    assert capsys.readouterr().out == f"{first}\n{second}\n{first}\n"


def test_a_server(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say(monkeypatch, "hi")
    assert main(["chat", "--url", server.url, "--system", "S", "--max-tokens", "30"]) == 0
    assert capsys.readouterr().out == "<system>S<user>hi<assistant><s\n"
    say(monkeypatch, "hi")
    words = ["--url", f"{server.url}/v1/", "--lora", "red", "--api-key", "k", "--max-tokens", "5"]
    assert main(["chat", *words]) == 0
    assert capsys.readouterr().out == "<USER\n"


def test_a_server_with_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say(monkeypatch, "hi")
    keyring = Keyring(["secret"])
    with running(state_around(FakeEngine(), FolderResolver(tmp_path), keyring=keyring)) as server:
        for words in ([], ["base"], ["--api-key", "wrong"]):
            assert main(["chat", *words, "--url", server.url]) == 1
            says = "one of its API keys; give it with --api-key or LORAMUX_API_KEY."
            assert says in capsys.readouterr().err
        say(monkeypatch, "hi")
        assert main(["chat", "--url", server.url, "--api-key", "secret"]) == 0


def test_what_goes_wrong_is_told_and_the_conversation_goes_on(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say(monkeypatch, "x" * 400, "hi")
    assert main(["chat", "--url", server.url, "--max-tokens", "6"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "<user>\n"
    assert captured.err.startswith("loramux chat: This model's maximum context length is 256")
    say(monkeypatch, "hi")
    assert main(["chat", "nobody", "--url", server.url]) == 1
    assert "`nobody` does not exist" in capsys.readouterr().err
    say(monkeypatch)
    lines = iter(["hi", "/exit"])
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    assert main(["chat", "nobody", "--url", server.url]) == 0
    assert "`nobody` does not exist" in capsys.readouterr().err
    monkeypatch.undo()
    say(monkeypatch, "/help me")
    assert main(["chat", "--url", server.url]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("loramux chat: there is no command '/help'; /new begins")


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (
            ["--url", "http://127.0.0.1:9"],
            1,
            "127.0.0.1:9/v1 cannot be reached (Connection refused)",
        ),
        (["--url", "nowhere"], 2, "--url must be like"),
        (["m", "--temperature", "9"], 2, "temperature must be between"),
    ],
)
def test_refusals(
    words: list[str], status: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["chat", *words]) == status
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    "answer", ["<html>", '{"x": 1}', "[1]", '{"data": [{}]}', '{"data": {"id": 1}}']
)
def test_a_server_of_another_kind(
    answer: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(RemotePartner, "_open", lambda *_: io.BytesIO(answer.encode()))
    assert main(["chat", "--url", "http://127.0.0.1:9"]) == 1
    says = "http://127.0.0.1:9/v1 does not speak OpenAI's API; give another --url."
    assert says in capsys.readouterr().err
    say(monkeypatch, "hi")
    monkeypatch.setattr(RemotePartner, "_open", lambda *_: io.BytesIO(f"data: {answer}".encode()))
    assert main(["chat", "m", "--url", "http://127.0.0.1:9"]) == 1
    assert says in capsys.readouterr().err


def test_without_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["chat"])
    assert "give exactly one MODEL" in capsys.readouterr().err
