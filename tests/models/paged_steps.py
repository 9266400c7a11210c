"""Tiny random models, and steps of a few sequences over a paged cache to run them on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, PreTrainedConfig

from loramux.models.attention import ATTENTION_NAME, AttentionContext, probe_kv_shapes
from loramux.models.fused import FusedDecoder, FusedStep, StepLoRA
from loramux.models.fused.families import FAMILIES as KNOWN
from loramux_kernels.paged_attention import (
    AttentionBatch,
    AttentionOptions,
    DecodeGroup,
    LayerCache,
    PrefillChunk,
    paged_attention,
)
from tests.models.families import FAMILIES, SIZES, WINDOW

MAX_POSITIONS = 64
BLOCK_SIZE = 4
BLOCKS_EACH = MAX_POSITIONS // BLOCK_SIZE
PROMPTS = ([5, 9, 77], [3, 4, 8, 15, 16, 23, 42, 99, 100, 7, 11], [64])
NUM_DECODES = 12
"""Beyond the window of the configurations, for every prompt."""
LAST_ROWS = torch.tensor([len(prompt) for prompt in PROMPTS]).cumsum(0) - 1

YARN = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 128}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "original_max_position_embeddings": 32, "factor": 8.0,
    "short_factor": [1.0, 1.5, 2.0, 2.5], "long_factor": [1.0, 3.0, 5.0, 9.0],
}  # fmt: skip


def config(name: str, **changes: Any) -> PreTrainedConfig:
    return getattr(transformers, name)(**{**SIZES, **changes})


def with_rope(rope: dict[str, Any]) -> PreTrainedConfig:
    return config("LlamaConfig", rope_parameters={**rope, "rope_theta": 1e4})


CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    **FAMILIES,
    "llama-biased": lambda: config("LlamaConfig", attention_bias=True, mlp_bias=True),
    "llama-yarn": lambda: with_rope(YARN),
    "llama-llama3": lambda: with_rope(LLAMA3),
    "llama-longrope": lambda: with_rope({**LONGROPE, "original_max_position_embeddings": 64}),
    "llama-gelu": lambda: config("LlamaConfig", hidden_act="gelu"),
    "qwen2-sliding": lambda: config(
        "Qwen2Config", use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1
    ),
    "phi3-partial": lambda: config("Phi3Config", head_dim=16, partial_rotary_factor=0.5),
    "gemma": lambda: config("GemmaConfig", head_dim=16),
    "gemma2-scalar": lambda: config("Gemma2Config", head_dim=8, query_pre_attn_scalar=24),
    "gemma3-mixed": lambda: config(
        "Gemma3TextConfig",
        head_dim=8,
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        final_logit_softcapping=5.0,
        query_pre_attn_scalar=24,
    ),
}
FUSED = [name for name, make in CONFIGS.items() if make().model_type in KNOWN]
UNKNOWN = [name for name in CONFIGS if name not in FUSED]


def make_model(config: PreTrainedConfig, dtype: torch.dtype = torch.float32) -> Any:
    """Random weights large enough that every part of the model matters, norms and biases too."""
    torch.manual_seed(11)
    model = AutoModelForCausalLM.from_config(
        config, attn_implementation=ATTENTION_NAME, dtype=dtype
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval().requires_grad_(False)


def fuse(model: nn.Module) -> FusedDecoder:
    decoder = FusedDecoder.of(model, MAX_POSITIONS)
    assert decoder is not None
    return decoder


def make_caches(model: nn.Module) -> dict[int, LayerCache]:
    dtype = next(model.parameters()).dtype

    def empty(num_heads: int, dim: int) -> Tensor:
        return torch.zeros(len(PROMPTS) * BLOCKS_EACH, BLOCK_SIZE, num_heads, dim, dtype=dtype)

    return {
        layer: LayerCache(empty(s.num_heads, s.key_dim), empty(s.num_heads, s.value_dim))
        for layer, s in probe_kv_shapes(model).items()
    }


@dataclass
class Tokens:
    """Rows of one step: the new tokens of each prompt, which lie in blocks of its own."""

    ids: Tensor
    positions: Tensor
    batch: AttentionBatch

    @classmethod
    def prefill(cls) -> Tokens:
        chunks, start = [], 0
        for index, prompt in enumerate(PROMPTS):
            stop = start + len(prompt)
            chunks.append(PrefillChunk(start, stop, len(prompt), _blocks(index)))
            start = stop
        return cls._of(PROMPTS, [range(len(prompt)) for prompt in PROMPTS], [], chunks)

    @classmethod
    def decode(cls, tokens: Sequence[int], step: int) -> Tokens:
        lengths = [len(prompt) + step + 1 for prompt in PROMPTS]
        table = torch.stack([_blocks(index) for index in range(len(PROMPTS))])
        group = DecodeGroup(torch.arange(len(PROMPTS)), table, torch.tensor(lengths))
        return cls._of([[token] for token in tokens], [[n - 1] for n in lengths], [group], [])

    @classmethod
    def _of(
        cls,
        ids: Sequence[Sequence[int]],
        positions: Sequence[Sequence[int]],
        decodes: list[DecodeGroup],
        prefills: list[PrefillChunk],
    ) -> Tokens:
        slots = [
            index * MAX_POSITIONS + position
            for index, of_one in enumerate(positions)
            for position in of_one
        ]
        return cls(
            torch.tensor(list(chain.from_iterable(ids))),
            torch.tensor(list(chain.from_iterable(positions))),
            AttentionBatch(torch.tensor(slots), decodes, prefills, BLOCK_SIZE),
        )

    def attend(self, queries: Tensor, cache: LayerCache, options: AttentionOptions) -> Tensor:
        return paged_attention(queries, cache, self.batch, options)


def _blocks(prompt: int) -> Tensor:
    return torch.arange(prompt * BLOCKS_EACH, (prompt + 1) * BLOCKS_EACH)


def run_fused(
    decoder: FusedDecoder,
    caches: dict[int, LayerCache],
    tokens: Tokens,
    logit_rows: Tensor | None = None,
    lora: StepLoRA | None = None,
) -> Tensor:
    return decoder(
        FusedStep(
            input_ids=tokens.ids,
            positions=tokens.positions,
            slots=tokens.batch.slots,
            logit_rows=logit_rows,
            caches=caches,
            attend=tokens.attend,
            lora=lora,
        )
    )


def run_model(model: nn.Module, caches: dict[int, LayerCache], tokens: Tokens) -> Tensor:
    """The same step by transformers' own modules."""
    context = AttentionContext(caches, tokens.batch.slots, LayerCache.write, tokens.attend)
    output = model(
        input_ids=tokens.ids[None],
        position_ids=tokens.positions[None],
        use_cache=False,
        attention_context=context,
    )
    return output.logits[0]


def assert_same(actual: Tensor, expected: Tensor) -> None:
    assert_close(actual, expected, rtol=1e-5, atol=1e-5)
