"""The command itself: help, speed, and how a command line that makes no sense is answered."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from loramux.cli import COMMANDS, main


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=240, check=False
    )


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, time; started = time.process_time()\n"
        "from loramux.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'transformers', 'fastapi', 'uvicorn', 'pydantic'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
        "assert time.process_time() - started < 0.5\n"
    )
    result = run("-c", code)
    assert result.returncode == 0, result.stderr
    assert "`loramux COMMAND --help` says more" in result.stdout
    for command, purpose in COMMANDS.items():
        assert command in result.stdout
        assert purpose in result.stdout


@pytest.mark.parametrize("command", ["serve", "generate"])
def test_help_of_a_command_imports_no_torch(command: str) -> None:
    code = (
        "import sys\nfrom loramux.cli import main\n"
        f"try: main([{command!r}, '--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'transformers', 'fastapi'} & sys.modules.keys()\n"
    )
    result = run("-c", code)
    assert result.returncode == 0, result.stderr
    assert "--max-lora-rank" in result.stdout
    for heading in ("model:", "memory and batching:", "adapters:"):
        assert heading in result.stdout


def test_module_and_version() -> None:
    result = run("-X", "importtime", "-m", "loramux", "--version")
    assert result.stdout.startswith("loramux ")
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "loramux.cli" in imported
    assert not imported & {"torch", "transformers", "fastapi", "uvicorn", "pydantic"}


@pytest.mark.parametrize("words", [["plugins", "--json"], ["--help"]])
def test_nobody_reads_on(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # argparse is silent where it writes
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer) as pipe:
        result = subprocess.run(
            [sys.executable, "-m", "loramux", *words],
            stdout=pipe, stderr=subprocess.PIPE, text=True, timeout=240, check=False,
        )  # fmt: skip
    assert (result.returncode, result.stderr) == (128 + signal.SIGPIPE, "")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "COMMAND"),
        (["sing"], "invalid choice: 'sing'"),
        (["serve"], "give exactly one MODEL"),
        (["serve", "a", "--model", "b"], "give exactly one MODEL"),
        (["serve", "m", "--max-lora", "1"], "arguments: --max-lora 1 (did you mean --max-lora"),
        (["serve", "m", "--enable-loras"], "--enable-loras (did you mean --enable-lora?)"),
        (["serve", "m", "--enable_loras=1"], "(did you mean --enable-lora?)"),
        (["adapters", "list", "--adapter-dirs=x"], "unrecognized arguments: --adapter-dirs"),
        (["serve", "m", "--xyzzy"], "unrecognized arguments: --xyzzy\n"),
        (["generate", "m"], 'give a MODEL and then a prompt: loramux generate MODEL "prompt"'),
        (["generate", "m", "p", "--model", "n"], "give exactly one MODEL"),
        (["serve", "m", "--dtype", "int8"], "invalid choice: 'int8'"),
        (["serve", "m", "--hf-overrides", "[]"], 'such as {"is_matryoshka": true}, got'),
    ],
)
def test_command_lines_that_make_no_sense(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--max-loras", "0"], "max_loras must be at least 1, got 0."),
        (["--max_loras=4", "--max_cpu_loras", "2"], "max_cpu_loras (2) must be at least"),
        (["--lora-modules", "nothing"], "takes name=path or a JSON object"),
        (["--lora-modules", "{x"], 'lora_modules must be a JSON object such as {"name"'),
        (["--lora-modules", json.dumps({"name": "a"})], "--lora-modules takes name, path and"),
        (["--lora-modules", json.dumps({"name": "a", "path": 1})], "--lora-modules takes name, pa"),
    ],
)
def test_values_that_are_out_of_range(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "m", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("loramux serve: ")
    assert says in error
    assert error.count("\n") == 1
