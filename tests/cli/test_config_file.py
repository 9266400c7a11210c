"""``loramux serve --config FILE.yaml`` says what flags would."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from loramux.cli import main, serve
from loramux.cli.config_file import with_config_first


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Namespace]:
    """Instead of serving, keep what the command line came to."""
    kept: list[Namespace] = []
    monkeypatch.setattr(serve, "run", lambda arguments: kept.append(arguments) or 0)
    return kept


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "serve.yaml"


CONFIG = """
model: some/base
served_model_name: [one, two]
port: 9000
host: 0.0.0.0
enable-lora: true
enable-prefix-caching: false
enable-auto-tool-choice: false
no-dashboard: true
max-loras: 8
gpu-memory-utilization: 0.5
max-model-len: null
lora-modules:
  - sql=/adapters/sql
  - {name: french, path: org/french, base_model_name: some/base}
"""


def test_every_kind_of_key(seen: list[Namespace], config: Path) -> None:
    config.write_text(CONFIG)
    assert main(["serve", "--config", str(config)]) == 0
    (arguments,) = seen
    assert arguments.configured_model == "some/base"
    assert arguments.served_model_name == ["one", "two"]
    assert (arguments.port, arguments.host) == (9000, "0.0.0.0")
    assert arguments.enable_lora is True
    assert arguments.enable_prefix_caching is False
    assert arguments.enable_auto_tool_choice is False
    assert arguments.dashboard is False
    assert (arguments.max_loras, arguments.gpu_memory_utilization) == (8, 0.5)
    assert arguments.max_model_len is None
    assert arguments.max_lora_rank == 16, "what is in neither keeps its default"
    plain, described = arguments.lora_modules
    assert plain == "sql=/adapters/sql"
    assert json.loads(described)["path"] == "org/french"


@pytest.mark.parametrize("is_last", [False, True])
def test_flags_win_wherever_they_stand(seen: list[Namespace], config: Path, is_last: bool) -> None:
    config.write_text(CONFIG)
    flags = ["mine", "--port", "8000", "--no-enable-lora", "--lora-modules", "a=b"]
    words = [*flags, f"--config={config}"] if is_last else ["--config", str(config), *flags]
    assert main(["serve", *words]) == 0
    (arguments,) = seen
    assert arguments.model_tag == "mine"
    assert arguments.port == 8000
    assert arguments.enable_lora is False
    assert arguments.lora_modules == ["a=b"]
    assert arguments.max_loras == 8


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("max-lora: 8", "has the unknown key 'max-lora' (did you mean max-lora"),
        ("xyzzy: 8", "has the unknown key 'xyzzy'\n"),
        ("config: other.yaml", "has the key 'config', and names the one file that is read; leave"),
        ("confi: other.yaml", "has the unknown key 'confi' (did you mean pooler-config?)"),
        ("port: many", "argument --port: invalid int value: 'many'"),
        ("dtype: int8", "invalid choice: 'int8'"),
        ("port: [1, 2]", "gives port a list"),
        ("enable-lora: maybe", "gives enable-lora 'maybe'; it is true or false"),
        ("- a list", "must hold keys and values"),
        ("a: [", "is no YAML (while parsing"),
        ("a: [", "); correct it.\n"),
        ("", "must hold keys and values"),
    ],
)
def test_what_makes_no_sense(
    config: Path, text: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(text)
    with pytest.raises(SystemExit) as end:
        main(["serve", "m", "--config", str(config)])
    assert end.value.code == 2
    assert says in capsys.readouterr().err


def test_files_that_are_not_there_and_two_of_them(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text("port: 1")
    for words in (["/no/such.yaml"], [str(config), "--config", str(config)]):
        with pytest.raises(SystemExit):
            main(["serve", "m", "--config", *words])
    errors = capsys.readouterr().err
    assert (
        "--config /no/such.yaml cannot be read (No such file or directory); give the path of a "
        "YAML file.\n" in errors
    )
    assert "--config may be given once" in errors


def test_order_of_words() -> None:
    words: list[Any] = ["serve", "m", "--port", "1", "--config", "f", "--host", "h"]
    assert with_config_first(words) == [
        "serve", "--config", "f", "m", "--port", "1", "--host", "h",
    ]  # fmt: skip
    assert with_config_first(["plugins"]) == ["plugins"]
