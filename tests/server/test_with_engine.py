"""The whole way: ``loramux serve`` in a process of its own, a real model, real adapters.

transformers and PEFT say what the text has to be.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.server.checkpoints import greedy, save_adapter, save_model
from tests.server.server_process import ServerProcess, serving

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")

PROMPT = "hello"
TOKENS = 12
NOT_SERVING = {
    "aiobotocore", "aiohttp", "httpx", "llguidance", "loramux.bench", "loramux.testing", "openai",
    "opentelemetry.sdk", "peft", "requests", "s3fs",
}  # fmt: skip
"""What a server imports when it is asked for it, or never."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a folder of adapters for the filesystem resolver, and one adapter apart."""
    root = tmp_path_factory.mktemp("checkpoints")
    model = save_model(root / "model")
    for seed, name in enumerate(("folder/red", "folder/green", "folder/late", "apart"), 1):
        save_adapter(root / name, model, seed=seed)
    save_adapter(root / "folder/big", model, seed=9, rank=32)
    return root


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[ServerProcess]:
    words = [
        str(root / "model"), "--served-model-name", "base", "--enable-lora", "--max-loras", "2",
        "--lora-modules", f"apart={root / 'apart'}",
    ]  # fmt: skip
    environment = {
        "LORAMUX_PLUGINS": "lora_filesystem_resolver",
        "LORAMUX_LORA_RESOLVER_CACHE_DIR": str(root / "folder"),
        "LORAMUX_ALLOW_RUNTIME_LORA_UPDATING": "true",
        "LORAMUX_ALLOWED_ADAPTER_ROOTS": str(root.parent),
    }
    with serving(*words, **environment) as process:
        yield process
        assert process.end(signal.SIGTERM) == 0


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> openai.OpenAI:
    http = openai.DefaultHttpxClient(verify=False)
    return openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, http_client=http
    )


def expected(root: Path, adapter: str | None) -> str:
    return greedy(root / "model", root / adapter if adapter else None, PROMPT, TOKENS)


def text(client: openai.OpenAI, model: str, **settings: Any) -> str:
    answer = client.completions.create(
        model=model, prompt=PROMPT, max_tokens=TOKENS, temperature=0, **settings
    )
    return answer.choices[0].text


def test_the_ready_line(server: ServerProcess) -> None:
    assert server.ready_line.startswith("loramux is ready: http://127.0.0.1:")
    assert server.ready_line.endswith("(model base, resolvers: lora_filesystem_resolver)")


@pytest.mark.parametrize(
    ("name", "adapter"),
    [("base", None), ("apart", "apart"), ("red", "folder/red"), ("green", "folder/green")],
)
def test_every_model_says_what_peft_says(
    client: openai.OpenAI, root: Path, name: str, adapter: str | None
) -> None:
    assert text(client, name) == expected(root, adapter)


def test_streams_of_three_models_at_once(client: openai.OpenAI, root: Path) -> None:
    texts: dict[str, str] = {}

    def read(name: str) -> None:
        stream = client.completions.create(
            model=name, prompt=PROMPT, max_tokens=TOKENS, temperature=0, stream=True
        )
        texts[name] = "".join(chunk.choices[0].text for chunk in stream)

    threads = [threading.Thread(target=read, args=(name,)) for name in ("base", "red", "apart")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {
        "base": expected(root, None),
        "red": expected(root, "folder/red"),
        "apart": expected(root, "apart"),
    }


def test_headers_tell_how_an_adapter_came_about(server: ServerProcess) -> None:
    body = {"model": "late", "prompt": PROMPT, "max_tokens": 1}
    with server.http() as http:
        first = http.post("/v1/completions", json=body)
        second = http.post("/v1/completions", json=body)
        rows = {row["name"]: row for row in http.get("/v1/adapters").json()["data"]}
    assert first.headers["x-loramux-adapter-found-by"] == "lora_filesystem_resolver"
    assert int(first.headers["x-loramux-adapter-load-ms"]) > 0
    assert second.headers["x-loramux-adapter-load-ms"] == "0"
    assert first.headers["x-loramux-adapter-digest"] == rows["late"]["digest"]
    assert rows["late"]["rank"] == 4
    assert rows["late"]["tier"] in ("host", "device")


def test_a_chat_with_logprobs(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="red", messages=[{"role": "user", "content": "hi"}], max_tokens=3,
        temperature=0, logprobs=True, top_logprobs=2,
    )  # fmt: skip
    content = answer.choices[0].logprobs.content
    assert "".join(entry.token for entry in content) == answer.choices[0].message.content
    for entry in content:
        assert entry.top_logprobs[0].token == entry.token
        assert entry.logprob <= 0


def test_echo_scores_every_token_of_the_prompt(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="red", prompt=PROMPT, max_tokens=0, echo=True, logprobs=1, temperature=0
    )
    logprobs = answer.choices[0].logprobs
    assert answer.choices[0].text == PROMPT
    assert logprobs.tokens == list(PROMPT)
    assert logprobs.token_logprobs[0] is None
    assert all(value < 0 for value in logprobs.token_logprobs[1:])


def test_stop_and_several_completions(client: openai.OpenAI, root: Path) -> None:
    whole = expected(root, "folder/red")
    stopped = client.completions.create(
        model="red", prompt=PROMPT, max_tokens=TOKENS, temperature=0, stop=[whole[4:6]]
    )
    assert stopped.choices[0].text == whole[: whole.index(whole[4:6])]
    assert stopped.choices[0].finish_reason == "stop"
    several = client.completions.create(
        model="red", prompt=[PROMPT, "bye"], n=2, max_tokens=4, temperature=1, seed=3
    )
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]


def test_a_longer_prompt_than_the_model(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="maximum context length is 128"):
        client.completions.create(model="red", prompt="a" * 120, max_tokens=20)
    with pytest.raises(openai.BadRequestError, match="outside the vocabulary"):
        client.completions.create(model="red", prompt=[5000], max_tokens=2)
    with pytest.raises(openai.BadRequestError, match="empty"):
        client.completions.create(model="red", prompt="", max_tokens=2)


def test_a_rank_over_the_limit_is_the_clients_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="32"):
        text(client, "big")
    with pytest.raises(openai.NotFoundError):
        text(client, "../model")


def test_load_reload_in_place_and_unload(
    server: ServerProcess, client: openai.OpenAI, root: Path, tmp_path: Path
) -> None:
    def post(path: str, **body: Any) -> httpx.Response:
        with server.http() as http:
            return http.post(path, json=body)

    path = tmp_path / "mine"
    save_adapter(path, root / "model", seed=21)
    loaded = post("/v1/load_lora_adapter", lora_name="mine", lora_path=str(path))
    assert loaded.text == "Success: LoRA adapter 'mine' added successfully."
    assert text(client, "mine") == greedy(root / "model", path, PROMPT, TOKENS)
    save_adapter(path, root / "model", seed=22)
    post("/v1/load_lora_adapter", lora_name="mine", lora_path=str(path), load_inplace=True)
    assert text(client, "mine") == greedy(root / "model", path, PROMPT, TOKENS)
    post("/v1/unload_lora_adapter", lora_name="mine")
    with pytest.raises(openai.NotFoundError):
        text(client, "mine")
    missing = post("/v1/load_lora_adapter", lora_name="mine", lora_path="/nowhere")
    assert missing.status_code == 404


def test_a_disconnect_frees_the_engine(server: ServerProcess, client: openai.OpenAI) -> None:
    for _ in range(20):
        stream = client.completions.create(
            model="base", prompt=PROMPT, max_tokens=100, stream=True,
            extra_body={"ignore_eos": True},
        )  # fmt: skip
        next(iter(stream))
        stream.close()
    assert len(text(client, "base")) > 0
    assert httpx.get(f"{server.url}/health", verify=False, timeout=60).status_code == 200


def test_the_simple_server_and_its_end(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """vLLM's first example, and a stream that runs when the server is told to end."""
    words = [
        "--model", str(root / "model"), "--served-model-name", "mine", "--lora-path",
        str(root / "apart"), "--max-model-len", "128",
    ]  # fmt: skip
    with (
        serving(
            *words, module=["loramux.entrypoints.api_server"], PYTHONPROFILEIMPORTTIME="1"
        ) as server,
        server.http() as http,
    ):
        body = json.dumps({"model": "mine", "prompt": PROMPT, "max_tokens": 12, "temperature": 0})
        form = {"content-type": "application/x-www-form-urlencoded"}
        answer = http.post("/generate", content=body, headers=form).json()
        assert answer["text"] == [expected(root, "apart")]
        names = [card["id"] for card in http.get("/v1/models").json()["data"]]
        assert names == [str(root / "model"), "mine"]
        long = {"prompt": PROMPT, "max_tokens": 120, "ignore_eos": True, "stream": True}
        with http.stream("POST", "/v1/completions", json=long) as stream:
            lines = stream.iter_lines()
            first = next(lines)
            server.process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert '"finish_reason":null' in first
        assert '"finish_reason":"length"' in rest[-2]
        assert rest[-1] == "data: [DONE]"
        assert server.process.wait(timeout=60) == 0
    imported = re.findall(r"^import time: .*\| +(\S+)$", capfd.readouterr().err, re.MULTILINE)
    assert NOT_SERVING & set(imported) == set()
    # In the order in which they were ready: what is refused takes no library of seconds to tell,
    # and the other processes start before this one imports what takes longest.
    in_order = ["loramux.server.launch", "torch", "loramux.engine.start", "transformers"]
    assert sorted(in_order, key=imported.index) == in_order


def fails(*words: str, **environment: str) -> str:
    """Start ``loramux serve`` in a way that cannot work; its one sentence."""
    result = subprocess.run(
        [sys.executable, "-m", "loramux", "serve", *words],
        capture_output=True, text=True, timeout=240, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    return result.stderr.strip().splitlines()[-1]


def test_an_address_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert f"127.0.0.1:{port} cannot be listened on" in fails("m", "--port", str(port))


def test_a_plugin_that_is_not_there() -> None:
    sentence = fails("m", "--enable-lora", "--port", "0", LORAMUX_PLUGINS="no_such_plugin")
    assert "no_such_plugin" in sentence


def test_a_model_that_is_not_there() -> None:
    assert "/no/such/model" in fails("/no/such/model", "--port", "0", HF_HUB_OFFLINE="1")


def test_an_adapter_that_is_not_there(root: Path) -> None:
    words = [str(root / "model"), "--lora-modules", "a=/no/such/adapter", "--port", "0"]
    assert "/no/such/adapter" in fails(*words)
