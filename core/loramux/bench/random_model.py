"""A random model and random adapters of a given shape, for measuring without downloading."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from loramux.models.sites import find_sites

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class ModelShape:
    """Dimensions of a Llama model."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int = 4096


SHAPES = {
    "tiny": ModelShape(1189, 256, 688, 6, 8, 4),
    "llama-3.1-8b": ModelShape(128256, 4096, 14336, 32, 32, 8, 8192),
}


def write_model(directory: Path, shape: ModelShape, seed: int = 0) -> Path:
    """Write a randomly initialised model of this shape, ready for ``from_pretrained``."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(**asdict(shape), bos_token_id=1, eos_token_id=2)
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


def write_adapter(directory: Path, shape: ModelShape, rank: int, seed: int) -> Path:
    """Write a PEFT checkpoint of random weights on all seven projections of every layer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        sites = find_sites(LlamaForCausalLM(LlamaConfig(**asdict(shape))))
    tensors = {}
    for name, site in sites.items():
        if name.rpartition(".")[2] in PROJECTIONS:
            a = torch.randn(rank, site.in_features, generator=generator) / site.in_features**0.5
            b = torch.randn(site.out_features, rank, generator=generator) * 0.02
            tensors[f"base_model.model.{name}.lora_A.weight"] = a.bfloat16()
            tensors[f"base_model.model.{name}.lora_B.weight"] = b.bfloat16()
    directory.mkdir(parents=True)
    save_file(tensors, directory / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": PROJECTIONS}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return directory
