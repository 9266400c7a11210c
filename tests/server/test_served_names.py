"""What vLLM's documentation serves, word for word: adapters at the start, a whole fine-tune."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.server.checkpoints import greedy, save_adapter, save_model
from tests.server.server_process import serving
from tests.server.tokenizer import letter_tokenizer

PROMPT = "hello there"
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("served")
    model = save_model(root / "base")
    for seed, name in enumerate(("sql", "json", "french")):
        save_adapter(root / name, model, seed=seed + 1)
    return root


def test_adapters_in_every_notation_from_a_file(root: Path, tmp_path: Path) -> None:
    """Flags and a file, plain and JSON, several at once; lineage as vLLM shows it."""
    config = tmp_path / "serve.yaml"
    config.write_text(f"model: {root / 'base'}\nserved-model-name: base\nmax-loras: 3\nport: 1\n")
    described = {"name": "json", "path": str(root / "json"), "base_model_name": "base"}
    words = [
        "--lora-modules", f"sql={root / 'sql'}", json.dumps(described), f"fr={root / 'french'}",
        "--config", str(config), "--enable-lora", "--max-model-len", "128",
        "--gpu-memory-utilization", "0.5",
    ]  # fmt: skip
    with serving(*words) as server, server.http() as http:
        cards = {card["id"]: card for card in http.get("/v1/models").json()["data"]}
        texts = {name: _text(http, name) for name in cards}
    assert list(cards) == ["base", "sql", "json", "fr"]
    assert cards["json"]["parent"] == "base"
    assert cards["sql"]["root"] == str(root / "sql")
    assert texts == {
        "base": greedy(root / "base", None, PROMPT, 8),
        "sql": greedy(root / "base", root / "sql", PROMPT, 8),
        "json": greedy(root / "base", root / "json", PROMPT, 8),
        "fr": greedy(root / "base", root / "french", PROMPT, 8),
    }


def test_a_whole_fine_tune_under_its_name(root: Path) -> None:
    """``python -m vllm.entrypoints.api_server --model ./my-full-finetune ...``"""
    torch.manual_seed(5)
    tuned = LlamaForCausalLM.from_pretrained(root / "base")
    for parameter in tuned.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    tuned.save_pretrained(root / "my-full-finetune")
    letter_tokenizer().save_pretrained(root / "my-full-finetune")
    words = ["--model", str(root / "my-full-finetune"), "--served-model-name", "full"]
    module = ["loramux.entrypoints.api_server"]
    with serving(*words, "--max-model-len", "64", module=module) as server, server.http() as http:
        body = {"prompt": PROMPT, "model": "full", "max_tokens": 8, "temperature": 0}
        answer = http.post("/generate", json=body).json()
        refusal = http.post("/v1/embeddings", json={"model": "full", "input": "x"})
    expected = greedy(root / "my-full-finetune", None, PROMPT, 8)
    assert answer["text"] == [expected]
    assert answer["usage"] == {
        "prompt_tokens": len(PROMPT), "completion_tokens": 8, "total_tokens": len(PROMPT) + 8,
        "prompt_tokens_details": {"cached_tokens": 0},
    }  # fmt: skip
    assert expected != greedy(root / "base", None, PROMPT, 8)
    assert refusal.status_code == 400
    assert "does not support the Embeddings API" in refusal.json()["error"]["message"]


def _text(http: object, model: str) -> str:
    body = {"model": model, "prompt": PROMPT, "max_tokens": 8, "temperature": 0}
    return http.post("/v1/completions", json=body).json()["choices"][0]["text"]
