"""Tiny PEFT checkpoints, written without a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from types import MappingProxyType

LAYERS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "model.layers.0.self_attn.q_proj": (16, 16),
        "model.layers.0.mlp.down_proj": (24, 16),
    }
)
"""Layers of a small Llama, and how many features each takes and gives."""


def write_adapter(
    directory: str | PathLike[str],
    *,
    seed: int = 0,
    rank: int = 4,
    base_model_name: str | None = None,
    layers: Mapping[str, tuple[int, int]] = LAYERS,
) -> Path:
    """Write an adapter as PEFT's ``save_pretrained`` would, with random float32 tensors.

    Args:
        directory: where to write ``adapter_config.json`` and ``adapter_model.safetensors``; it is
            made if it is not there.
        seed: decides the values; another seed makes another adapter.
        rank: of every layer.
        base_model_name: the base model that the configuration names; None names none.
        layers: the linear layers to adapt, each with ``(in_features, out_features)``.

    Returns:
        The directory.
    """
    from numpy.random import default_rng
    from safetensors.numpy import save_file

    random = default_rng(seed)
    tensors = {}
    for layer, (in_features, out_features) in layers.items():
        for half, shape in (("A", (rank, in_features)), ("B", (out_features, rank))):
            name = f"base_model.model.{layer}.lora_{half}.weight"
            tensors[name] = random.standard_normal(shape, dtype="float32")
    path = Path(directory)
    path.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path / "adapter_model.safetensors", metadata={"format": "pt"})
    config = _config(rank, base_model_name, sorted(layers))
    (path / "adapter_config.json").write_text(json.dumps(config, indent=2))
    return path


def _config(rank: int, base_model_name: str | None, targets: list[str]) -> dict[str, object]:
    return {
        "base_model_name_or_path": base_model_name,
        "bias": "none",
        "inference_mode": True,
        "lora_alpha": 2 * rank,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": targets,
        "task_type": "CAUSAL_LM",
    }
