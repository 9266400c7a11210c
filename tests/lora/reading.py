"""Reading adapters of the tiny models, for tests of what is read and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from loramux.errors import AdapterRefusedError
from loramux.lora.checkpoint.reader import read_adapter
from loramux.lora.weights import AdapterWeights
from loramux.models.sites import find_sites
from tests.lora.peft_adapters import PREFIX, tiny_gemma, tiny_gpt2, tiny_llama, tiny_phi3

MODELS = {"llama": tiny_llama(), "gpt2": tiny_gpt2(), "phi3": tiny_phi3(), "gemma": tiny_gemma()}
SITES = {name: find_sites(model) for name, model in MODELS.items()}
LAYER = "model.layers.0.self_attn.q_proj"
A, B = f"{PREFIX}{LAYER}.lora_A.weight", f"{PREFIX}{LAYER}.lora_B.weight"


def read(path: Path, model: str = "llama", **options) -> AdapterWeights:
    options = {"max_rank": 64, "base_names": None, **options}
    return read_adapter(path, SITES[model], **options)


def refusal(path: Path, model: str = "llama", **options) -> str:
    with pytest.raises(AdapterRefusedError) as caught:
        read(path, model, **options)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.endswith(".")
    assert len(message) < 700
    return message
