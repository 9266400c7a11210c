"""From the command line to the arguments of an engine and a server."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from loramux.cli import engine_arguments
from loramux.cli.serve_locks import API_KEY_VARIABLE
from loramux.engine.args import EngineArgs
from loramux.lora.resolve.catalog import AdapterModule
from loramux.server import launch
from loramux.server.serve_options import ServeOptions


def parse(words: Sequence[str]) -> EngineArgs:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    engine_arguments.add_engine_arguments(parser)
    return engine_arguments.engine_args_from(parser.parse_args(words), parser.error)


def test_no_flag_means_the_engines_defaults() -> None:
    assert parse(["m"]) == EngineArgs(model="m")
    assert parse(["--model", "m"]) == EngineArgs(model="m")


def test_every_field_has_a_flag_below_a_heading() -> None:
    parser = argparse.ArgumentParser()
    engine_arguments.add_engine_arguments(parser)
    headed = {action.dest for group in parser._action_groups[2:] for action in group._group_actions}
    given = {spec.name for spec in fields(EngineArgs) if spec.metadata.get("cli", True)}
    assert headed == given - {"model"}
    assert [group.title for group in parser._action_groups[2:]] == [
        "model", "memory and batching", "adapters",
    ]  # fmt: skip


def test_flags_of_every_type() -> None:
    args = parse(
        ["m", "--enable-lora", "--no-enable-prefix-caching", "--max-loras", "3",
         "--served-model-name", "a", "b", "--gpu-memory-utilization", "0.5", "--dtype",
         "float32", "--revision", "main"]
    )  # fmt: skip
    assert args == EngineArgs(
        model="m", enable_lora=True, enable_prefix_caching=False, max_loras=3,
        served_model_name=["a", "b"], gpu_memory_utilization=0.5, dtype="float32",
        revision="main",
    )  # fmt: skip


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[EngineArgs, ServeOptions]]:
    """What ``loramux serve`` would start."""
    calls: list[tuple[EngineArgs, ServeOptions]] = []
    monkeypatch.setattr(launch, "serve", lambda *call: calls.append(call))
    monkeypatch.delenv(API_KEY_VARIABLE, raising=False)
    return calls


def start(*words: str) -> int:
    from loramux.cli import main

    return main(["serve", *words])


def test_serve_without_flags(started: Any) -> None:
    assert start("m") == 0
    assert started == [(EngineArgs(model="m"), ServeOptions())]


def test_serve_with_flags(started: Any, tmp_path: Path) -> None:
    template = tmp_path / "chat.jinja"
    start(
        "m", "--host", "::1", "--port", "0", "--api-key", "k1", "k2", "--chat-template",
        str(template), "--max-body-bytes", "10", "--shutdown_seconds", "3",
        "--uvicorn-log-level", "info",
    )  # fmt: skip
    ((_, options),) = started
    assert options == ServeOptions(
        host="::1", port=0, api_keys=("k1", "k2"), chat_template=template, max_body_bytes=10,
        shutdown_seconds=3, uvicorn_log_level="info",
    )  # fmt: skip


def test_lora_modules_in_both_forms(started: Any) -> None:
    as_json = {"name": "b", "path": "org/b", "base_model_name": "parent"}
    start("m", "--lora-modules", "a=/x=y", json.dumps(as_json), "")
    ((args, options),) = started
    assert args.enable_lora
    assert options.adapters == (AdapterModule("a", "/x=y"), AdapterModule("b", "org/b", "parent"))


def test_lora_path_takes_the_served_name_and_leaves_the_base_its_own(started: Any) -> None:
    start("--model", "m", "--served-model-name", "mine", "--lora-path", "./my-adapter")
    start("m", "--lora-path", "./my-adapter")
    (args, options), (_, unnamed) = started
    assert args.served_names == ["m"]
    assert args.enable_lora
    assert options.adapters == (AdapterModule("mine", "./my-adapter"),)
    assert unnamed.adapters == (AdapterModule("my-adapter", "./my-adapter"),)


def test_origins_as_words_or_as_vllms_list(started: Any) -> None:
    start("m", "--allowed-origins", "https://a.example", "https://b.example")
    start("m", "--allowed-origins", '["*"]')
    start("m")
    expected = [("https://a.example", "https://b.example"), ("*",), None]
    assert [options.allowed_origins for _, options in started] == expected


def test_an_api_key_from_the_environment(started: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(API_KEY_VARIABLE, "secret")
    start("m")
    start("m", "--api-key", "other")
    assert [options.api_keys for _, options in started] == [("secret",), ("other",)]
