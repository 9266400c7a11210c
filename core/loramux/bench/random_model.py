"""A random model of a given shape, for measuring without downloading."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch


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

    @property
    def key_value_size(self) -> int:
        """Features of the keys of one token in one layer."""
        return self.hidden_size // self.num_attention_heads * self.num_key_value_heads

    @property
    def projections(self) -> dict[str, tuple[int, int]]:
        """The linear layers of a decoder layer, each with ``(in_features, out_features)``."""
        hidden, inner, keys = self.hidden_size, self.intermediate_size, self.key_value_size
        return {
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (hidden, keys),
            "self_attn.v_proj": (hidden, keys),
            "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (hidden, inner),
            "mlp.up_proj": (hidden, inner),
            "mlp.down_proj": (inner, hidden),
        }

    @property
    def num_weights_per_step(self) -> int:
        """Weights that one decode step reads: all but the rows of the embedding not looked up."""
        layer = sum(width * height for width, height in self.projections.values())
        return self.num_hidden_layers * layer + self.vocab_size * self.hidden_size

    @property
    def num_cached_per_token(self) -> int:
        """Numbers the KV cache holds for one token."""
        return 2 * self.num_hidden_layers * self.key_value_size

    def num_adapter_weights(self, rank: int) -> int:
        """Weights of an adapter of this rank on every projection."""
        features = sum(width + height for width, height in self.projections.values())
        return self.num_hidden_layers * rank * features


SHAPES = {
    "tiny": ModelShape(1189, 256, 688, 6, 8, 4),
    "llama-3.1-8b": ModelShape(128256, 4096, 14336, 32, 32, 8, 8192),
}
"""By the names of ``settings.SHAPE_NAMES``."""


def compute_dtype() -> torch.dtype:
    """The type an engine computes a random model in on this machine."""
    return torch.bfloat16 if torch.cuda.is_available() else torch.float32


def write_model(directory: Path, shape: ModelShape, *, weights: bool = True, seed: int = 0) -> Path:
    """Write a random model of this shape with a tokenizer, ready to be served.

    Args:
        directory: made if it is not there.
        shape: of the model.
        weights: False leaves them out, for an engine that is started with ``load_format="dummy"``.
        seed: of the weights.

    Returns:
        The directory.
    """
    from loramux.bench.random_tokenizer import write_tokenizer

    config = _config(shape)
    if weights:
        _random_model(config, seed).save_pretrained(directory)
    else:
        config.save_pretrained(directory)
    write_tokenizer(directory, shape.vocab_size)
    return directory


def _config(shape: ModelShape) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        **asdict(shape),
        bos_token_id=1,
        eos_token_id=2,
        dtype=compute_dtype(),
        architectures=["LlamaForCausalLM"],
    )


def _random_model(config: Any, seed: int) -> Any:
    """Made where it is made fastest: billions of numbers take a CPU minutes."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        return AutoModelForCausalLM.from_config(config, dtype=compute_dtype())
