"""What adapters add to the fused decoder, against PEFT."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

from loramux.models.fused import FusedDecoder, StepLoRA
from tests.models.paged_steps import (
    CONFIGS,
    LAST_ROWS,
    PROMPTS,
    Tokens,
    assert_same,
    fuse,
    make_caches,
    make_model,
    run_fused,
    run_model,
)

ADAPTERS = ("large", None, "small")
"""By prompt: two adapters of different ranks, and a sequence without one."""


def with_adapters(model: nn.Module) -> Any:
    """PEFT's model with both adapters, on every layer that an adapter can change."""
    names = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Embedding)
    }
    large = peft.LoraConfig(r=5, lora_alpha=12, target_modules=sorted(names))
    small = peft.LoraConfig(r=2, lora_alpha=3, target_modules=sorted(names))
    adapted = peft.get_peft_model(model, large, "large")
    adapted.add_adapter("small", small)
    torch.manual_seed(13)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.15)
    return adapted.eval().requires_grad_(False)


class PlainLoRA(StepLoRA):
    """Plain products with PEFT's own matrices; ``rows`` and ``logit_rows`` by adapter."""

    def __init__(
        self, decoder: FusedDecoder, adapted: Any, rows: dict[str, slice], logits: dict[str, slice]
    ) -> None:
        self._projections = decoder.projections
        self._modules = dict(adapted.base_model.model.named_modules())
        self._rows, self._logits = rows, logits

    def add_(self, projection: int, y: Tensor, x: Tensor) -> None:
        start = 0
        for site in self._projections[projection].sites:
            stop = start + site.out_features
            self._add(site.name, y[:, start:stop], x, self._rows)
            start = stop
        assert start == y.shape[1]

    def add_embedding_(self, y: Tensor, ids: Tensor) -> None:
        module = self._modules["model.embed_tokens"]
        for name, rows in self._rows.items():
            a, b = module.lora_embedding_A[name], module.lora_embedding_B[name]
            y[rows] += a.T[ids[rows]] @ b.T * module.scaling[name]

    def add_output_(self, y: Tensor, x: Tensor) -> None:
        self._add("lm_head", y, x, self._logits)

    def _add(self, site: str, y: Tensor, x: Tensor, rows_of: dict[str, slice]) -> None:
        module = self._modules[site]
        for name, rows in rows_of.items():
            a, b = module.lora_A[name].weight, module.lora_B[name].weight
            y[rows] += x[rows] @ a.T @ b.T * module.scaling[name]


def rows_by_adapter(counts: list[int]) -> dict[str, slice]:
    stops = torch.tensor(counts).cumsum(0).tolist()
    spans = zip(ADAPTERS, counts, stops, strict=True)
    return {name: slice(stop - count, stop) for name, count, stop in spans if name is not None}


def expected_logits(adapted: Any, steps: list[Tokens], name: str | None) -> list[Tensor]:
    """Logits of all rows as if all had this adapter."""
    caches = make_caches(adapted.base_model.model)
    if name is None:
        with adapted.disable_adapter():
            return [run_model(adapted.base_model.model, caches, step) for step in steps]
    adapted.set_adapter(name)
    return [run_model(adapted.base_model.model, caches, step) for step in steps]


@pytest.mark.parametrize(
    "family",
    ["llama", "llama-biased", "qwen2", "qwen3", "phi3", "gemma", "gemma2", "gemma3-mixed"],
)
def test_every_row_gets_what_peft_adds(family: str) -> None:
    adapted = with_adapters(make_model(CONFIGS[family]()))
    decoder = fuse(model := make_model(CONFIGS[family]()))
    steps = [Tokens.prefill(), Tokens.decode([9, 30, 101], 0)]
    by_prompt = [expected_logits(adapted, steps, name) for name in ADAPTERS]

    caches = make_caches(model)
    each = rows_by_adapter([1] * len(PROMPTS))
    lora = PlainLoRA(decoder, adapted, rows_by_adapter([len(p) for p in PROMPTS]), each)
    logits = run_fused(decoder, caches, steps[0], LAST_ROWS, lora)
    for index, row in enumerate(LAST_ROWS):
        assert_same(logits[index], by_prompt[index][0][row])
    logits = run_fused(decoder, caches, steps[1], lora=PlainLoRA(decoder, adapted, each, each))
    for index in range(len(PROMPTS)):
        assert_same(logits[index], by_prompt[index][1][index])
        assert not torch.allclose(logits[index], by_prompt[index - 1][1][index], atol=0.1)
