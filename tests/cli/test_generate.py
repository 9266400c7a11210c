"""``loramux generate`` prints what transformers and PEFT say."""

from __future__ import annotations

from pathlib import Path

import pytest

from loramux.cli import main
from tests.server.checkpoints import greedy, save_adapter, save_model

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("checkpoints") / "model")


def test_the_base_model(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--max-tokens", "12", "--temperature", "0"]
    assert main(["generate", str(model), "hello", *words]) == 0
    assert capsys.readouterr().out == greedy(model, None, "hello", 12) + "\n"


def test_an_adapter(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = save_adapter(model.parent / "adapter", model, seed=1)
    words = ["--lora", str(adapter), "--max-tokens", "12", "--temperature", "0"]
    assert main(["generate", "--model", str(model), *words, "hello"]) == 0
    assert capsys.readouterr().out == greedy(model, adapter, "hello", 12) + "\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--lora", "/no/such/adapter"], "check the path of adapter '/no/such/adapter'"),
        (["--max-tokens", "0"], "max_tokens must be at least 1"),
        (["--top-p", "3"], "top_p must be above 0"),
    ],
)
def test_refusals(
    model: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", str(model), "hello", *words]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("loramux generate: ")
    assert says in error
