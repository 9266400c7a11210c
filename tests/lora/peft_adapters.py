"""Tiny random models, PEFT adapters made for them, and what PEFT computes with those."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
)

VOCABULARY = 64
PREFIX = "base_model.model."

_DECODER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def tiny_llama(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    return _built(seed, LlamaForCausalLM, LlamaConfig(**{**_DECODER, **changes}))


def tiny_phi3(seed: int = 0, **changes: Any) -> Phi3ForCausalLM:
    return _built(seed, Phi3ForCausalLM, Phi3Config(**{**_DECODER, **changes}))


def tiny_gemma(seed: int = 0, **changes: Any) -> Gemma2ForCausalLM:
    return _built(seed, Gemma2ForCausalLM, Gemma2Config(**{**_DECODER, "head_dim": 4, **changes}))


def tiny_gpt2(seed: int = 0, **changes: Any) -> GPT2LMHeadModel:
    config = {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64}
    return _built(seed, GPT2LMHeadModel, GPT2Config(**{**config, **changes}))


def make_adapter(
    model: PreTrainedModel,
    path: Path,
    *,
    target_modules: list[str] | str,
    r: int = 4,
    lora_alpha: float = 8,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    save_embedding_layers: bool | str = False,
    **fields: Any,
) -> Path:
    """Save a PEFT adapter whose tensors are all random, so that its update is not zero.

    Args:
        model: the base model; it is left unchanged.
        path: directory to write.
        seed: decides the values.
        dtype: type of the saved tensors; PEFT's own (float32) by default.
        fields: further fields of ``LoraConfig``.
    """
    config = LoraConfig(
        target_modules=target_modules, r=r, lora_alpha=lora_alpha, task_type="CAUSAL_LM", **fields
    )
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        adapted = get_peft_model(copy.deepcopy(model), config)
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                nn.init.normal_(parameter, std=0.5)
        adapted.save_pretrained(str(path), save_embedding_layers=save_embedding_layers)
    if dtype is not None:
        change_tensors(path, {name: t.to(dtype) for name, t in read_tensors(path).items()})
    return path


def peft_deltas(model: PreTrainedModel, path: Path) -> dict[str, torch.Tensor]:
    """Return what PEFT adds to each layer's weight, as ``[out_features, in_features]``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = PeftModel.from_pretrained(copy.deepcopy(model), str(path))
    deltas = {}
    for name, layer in adapted.named_modules():
        if isinstance(layer, LoraLayer):
            delta = layer.get_delta_weight("default").detach()
            is_transposed = isinstance(layer.get_base_layer(), nn.Embedding) or layer.fan_in_fan_out
            deltas[name.removeprefix(PREFIX)] = delta.T if is_transposed else delta
    return deltas


def read_config(path: Path) -> dict[str, Any]:
    return json.loads((path / "adapter_config.json").read_text())


def change_config(path: Path, **fields: Any) -> Path:
    config = {**read_config(path), **fields}
    (path / "adapter_config.json").write_text(json.dumps(config))
    return path


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "adapter_model.safetensors")


def change_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> Path:
    save_file(dict(tensors), path / "adapter_model.safetensors", metadata={"format": "pt"})
    return path


def _built(seed: int, kind: type[Any], config: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(config).eval()
