"""One tiny configuration for every model family that is held against transformers."""

from __future__ import annotations

import transformers
from transformers import PreTrainedConfig

SIZES = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WINDOW = 8
"""Shorter than the test's sequences, so that a window that is ignored changes tokens."""


def _config(name: str, **changes: object) -> PreTrainedConfig:
    return getattr(transformers, name)(**{**SIZES, **changes})


def _gpt2() -> PreTrainedConfig:
    return transformers.GPT2Config(
        vocab_size=128, n_positions=256, n_embd=32, n_layer=3, n_head=4, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip


MOE = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}

FAMILIES = {
    "llama": lambda: _config("LlamaConfig"),
    "llama-tied": lambda: _config("LlamaConfig", tie_word_embeddings=True),
    "qwen2": lambda: _config("Qwen2Config"),
    "qwen3": lambda: _config("Qwen3Config", head_dim=16),
    "mistral": lambda: _config("MistralConfig", sliding_window=WINDOW),
    "phi3": lambda: _config("Phi3Config", sliding_window=WINDOW),
    "gemma2": lambda: _config("Gemma2Config", head_dim=8, sliding_window=WINDOW),
    "gemma3": lambda: _config("Gemma3TextConfig", head_dim=8, sliding_window=WINDOW),
    "olmo2": lambda: _config("Olmo2Config"),
    "granite": lambda: _config("GraniteConfig", logits_scaling=2.0, residual_multiplier=0.5),
    "starcoder2": lambda: _config("Starcoder2Config", sliding_window=WINDOW),
    "gpt2": _gpt2,
    "mixtral": lambda: _config("MixtralConfig", num_local_experts=4, num_experts_per_tok=2),
    "qwen3-moe": lambda: _config("Qwen3MoeConfig", head_dim=8, num_experts=4, **MOE),
}
