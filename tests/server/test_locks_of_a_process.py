"""``loramux serve`` with a file of keys: a real model, a real prefix cache, SIGHUP, and its log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.checkpoints import save_adapter, save_model
from tests.server.running_server import wait_until
from tests.server.server_process import ServerProcess, serving

KEYS = """
[[keys]]
name = "team-a"
key = "sk-aaa"
adapters = ["team-a/*"]

[[keys]]
name = "team-b"
key = "sk-bbb"
adapters = ["team-b/*"]

[[keys]]
name = "ops"
key = "sk-ops"
role = "admin"

[[keys]]
name = "ops-of-a"
key = "sk-ops-a"
role = "admin"
adapters = ["team-a/*"]
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("locked")
    model = save_model(root / "model")
    for seed, name in enumerate(("folder/team-a/x", "folder/team-b/x", "outside"), 1):
        save_adapter(root / name, model, seed=seed)
    (root / "keys.toml").write_text(KEYS)
    (root / "keys.toml").chmod(0o600)
    return root


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[ServerProcess]:
    words = [
        str(root / "model"),
        "--served-model-name",
        "base",
        "--enable-lora",
        "--block-size",
        "16",
    ]
    environment = {
        "LORAMUX_PLUGINS": "lora_filesystem_resolver",
        "LORAMUX_LORA_RESOLVER_CACHE_DIR": str(root / "folder"),
        "LORAMUX_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "LORAMUX_API_KEYS_FILE": str(root / "keys.toml"),
    }
    with serving(*words, **environment) as process:
        yield process


def ask(server: ServerProcess, key: str, method: str, path: str, **body: Any) -> httpx.Response:
    with server.http() as client:
        headers = {"authorization": f"Bearer {key}"}
        return client.request(method, path, json=body or None, headers=headers)


def complete(server: ServerProcess, key: str, model: str, **more: Any) -> httpx.Response:
    body = {"model": model, "prompt": "a" * 40, "max_tokens": 1, "temperature": 0, **more}
    return ask(server, key, "POST", "/v1/completions", **body)


@pytest.mark.parametrize("model", ["base", "team-a/x"])
def test_each_tenant_has_a_prefix_cache_of_its_own(server: ServerProcess, model: str) -> None:
    def cached(key: str, **more: Any) -> int:
        usage = complete(server, key, model, **more).json()["usage"]
        return usage["prompt_tokens_details"]["cached_tokens"]

    other = "sk-bbb" if model == "base" else "sk-ops"
    assert [cached("sk-aaa"), cached("sk-aaa"), cached(other), cached(other)] == [0, 32, 0, 32]
    assert [cached("sk-aaa", cache_salt="x") for _ in range(2)] == [0, 32]


def test_tenants_and_operators(server: ServerProcess, root: Path) -> None:
    assert complete(server, "sk-aaa", "team-a/x").status_code == 200
    assert complete(server, "sk-aaa", "team-b/x").status_code == 404
    assert complete(server, "sk-none", "base").status_code == 401
    pinned = ask(server, "sk-ops", "POST", "/v1/adapters/team-b/x/pin")
    assert pinned.json() == {"name": "team-b/x", "tier": "device", "pinned": True}
    (row,) = [
        row
        for row in ask(server, "sk-ops", "GET", "/v1/adapters").json()["data"]
        if row["name"] == "team-b/x"
    ]
    assert (row["tier"], row["pinned"], row["references"]) == ("device", True, 0)
    assert row["source"] == str(root / "folder/team-b/x")


def test_adapters_are_loaded_from_where_the_operator_said(
    server: ServerProcess, root: Path
) -> None:
    def load(path: object, key: str = "sk-ops", name: str = "mine") -> httpx.Response:
        body = {"lora_name": name, "lora_path": str(path)}
        return ask(server, key, "POST", "/v1/load_lora_adapter", **body)

    refused = load(root / "outside")
    assert refused.status_code == 404
    assert refused.json()["error"]["message"].startswith(
        f"Loading lora mine failed: No adapter found for {root / 'outside'}"
    )
    assert load("https://127.0.0.1:1/x").status_code == load("org/repo").status_code == 404
    assert load(root / "folder/team-a/x").text.startswith("Success: LoRA adapter 'mine' added")
    foreign = load(root / "folder/team-b/x", "sk-ops-a", "team-a/stolen")
    outside = load(root / "outside", "sk-ops-a", "team-a/stolen")
    assert foreign.status_code == 404
    assert foreign.text == outside.text.replace("outside", "folder/team-b/x", 1)
    assert load(root / "folder/team-a/x", "sk-ops-a", "team-a/copy").status_code == 200


def test_sighup_reads_the_keys_again(server: ServerProcess, root: Path) -> None:
    (root / "keys.toml").write_text(KEYS.replace("sk-aaa", "sk-new"))
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: ask(server, "sk-aaa", "GET", "/v1/models").status_code == 401)
    assert ask(server, "sk-new", "GET", "/v1/models").status_code == 200
    (root / "keys.toml").write_text("nonsense")
    server.process.send_signal(signal.SIGHUP)
    assert ask(server, "sk-new", "GET", "/v1/models").status_code == 200


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--api-keys-file", "/no/such/keys"], "/no/such/keys"),
        (["--allowed-local-adapter-path", "s3://bucket"], "hf://org/repo"),
        (["--ssl-certfile", "/no/such/cert"], "--ssl-certfile"),
    ],
)
def test_what_is_wrong_is_told_before_a_model_loads(words: list[str], sentence: str) -> None:
    command = [sys.executable, "-m", "loramux", "serve", "m", "--port", "0", *words]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=240, check=False, env=dict(os.environ)
    )
    assert result.returncode != 0
    assert sentence in result.stderr.strip().splitlines()[-1]
    assert "Traceback" not in result.stderr
