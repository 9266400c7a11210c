"""Adapters with random weights, on all seven projections of every layer."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors.torch import save_file

from loramux.bench.random_model import ModelShape


def write_adapter(directory: Path, shape: ModelShape, rank: int, seed: int) -> Path:
    """Write a PEFT checkpoint in bfloat16; another seed makes another adapter."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(shape.num_hidden_layers):
        for name, (width, height) in shape.projections.items():
            a = torch.randn(rank, width, generator=generator) / width**0.5
            b = torch.randn(height, rank, generator=generator) * 0.02
            prefix = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{prefix}.lora_A.weight"] = a.bfloat16()
            tensors[f"{prefix}.lora_B.weight"] = b.bfloat16()
    directory.mkdir(parents=True)
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    (directory / "adapter_config.json").write_text(json.dumps(_config(shape, rank)))
    return directory


def write_adapters(directory: Path, shape: ModelShape, ranks: list[int], count: int) -> list[Path]:
    """Write ``count`` different adapters, the ranks dealt out to them in turn."""

    def write(index: int) -> Path:
        path = directory / f"adapter-{index}"
        return write_adapter(path, shape, ranks[index % len(ranks)], seed=index)

    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(write, range(count)))


def _config(shape: ModelShape, rank: int) -> dict[str, object]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": [name.rpartition(".")[2] for name in shape.projections],
    }
