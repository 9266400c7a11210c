"""The fused decoder, logit for logit and token for token, against the model it was made of."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from loramux.models.fused import StepLoRA
from loramux.models.fused.families import FAMILIES as KNOWN
from tests.models.paged_steps import (
    CONFIGS,
    FUSED,
    LAST_ROWS,
    NUM_DECODES,
    Tokens,
    assert_same,
    fuse,
    make_caches,
    make_model,
    run_fused,
    run_model,
)


def run_greedily(run: Callable[[Tokens], Tensor]) -> tuple[list[Tensor], list[list[int]]]:
    """Prefill, then decode what the logits say: all logits and tokens."""
    logits = [run(Tokens.prefill())]
    tokens = [logits[0][LAST_ROWS].argmax(-1).tolist()]
    for step in range(NUM_DECODES):
        logits.append(run(Tokens.decode(tokens[-1], step)))
        tokens.append(logits[-1].argmax(-1).tolist())
    return logits, tokens


@pytest.mark.parametrize("family", FUSED)
def test_equals_the_transformers_model(family: str) -> None:
    reference, packed = make_model(CONFIGS[family]()), make_model(CONFIGS[family]())
    decoder = fuse(packed)
    caches, fused_caches = make_caches(reference), make_caches(reference)
    expected, tokens = run_greedily(lambda step: run_model(reference, caches, step))
    logits, fused_tokens = run_greedily(lambda step: run_fused(decoder, fused_caches, step))
    assert fused_tokens == tokens
    assert len({tuple(step) for step in tokens}) > 1
    for actual, wanted in zip(logits, expected, strict=True):
        assert_same(actual, wanted)
    for layer, cache in caches.items():
        assert_same(fused_caches[layer].keys, cache.keys)
        assert_same(fused_caches[layer].values, cache.values)


def test_every_family_of_the_table_is_held_against_transformers() -> None:
    assert {CONFIGS[name]().model_type for name in FUSED} == set(KNOWN)


@pytest.mark.parametrize("family", FUSED)
def test_narrow_weights_are_as_near_to_wide_ones_as_in_transformers(family: str) -> None:
    """Only the rotation rounds elsewhere, so that logits are not the same to the bit."""
    narrow = make_model(CONFIGS[family](), torch.bfloat16)
    exact = run_step(copy.deepcopy(narrow).float())
    error = (run_step(narrow) - exact).norm()
    logits = run_fused(fuse(narrow), make_caches(narrow), Tokens.prefill())
    assert logits.dtype is torch.bfloat16
    assert (logits - exact).norm() < 1.3 * error


def run_step(model: nn.Module) -> Tensor:
    return run_model(model, make_caches(model), Tokens.prefill())


def test_embeddings_are_scaled_to_the_bit_in_narrow_weights() -> None:
    model = make_model(CONFIGS["gemma3"](), torch.bfloat16)
    model.model.embed_tokens.embed_scale = torch.tensor(32**0.5)  # to be rounded to the weights
    decoder, tokens = fuse(model), Tokens.prefill()
    inputs: list[Tensor] = []

    class Watch(StepLoRA):
        def add_(self, projection: int, y: Tensor, x: Tensor) -> None:
            inputs.append(x)

        def add_embedding_(self, y: Tensor, ids: Tensor) -> None:
            assert torch.equal(y, model.model.embed_tokens.weight[ids])

        def add_output_(self, y: Tensor, x: Tensor) -> None:
            inputs.append(x)

    run_fused(decoder, make_caches(model), tokens, lora=Watch())
    embeddings = model.model.embed_tokens(tokens.ids)
    assert torch.equal(inputs[0], model.model.layers[0].input_layernorm(embeddings))
    assert len(inputs) == len(decoder.projections) + 1


def test_selected_rows_give_their_logits() -> None:
    model = make_model(CONFIGS["gemma2"]())
    decoder = fuse(model)
    every = run_fused(decoder, make_caches(model), Tokens.prefill())
    rows = torch.tensor([13, 2, 14])
    selected = run_fused(decoder, make_caches(model), Tokens.prefill(), rows)
    assert_same(selected, every[rows])


@pytest.mark.parametrize(("family", "layers"), [("qwen2", 2), ("gemma3", 2)])
def test_an_excerpt_has_a_layer_of_each_kind(family: str, layers: int) -> None:
    decoder = fuse(make_model(CONFIGS[family]()))
    excerpt = decoder.excerpt()
    windows = [layer.attention.options.window for layer in decoder._layers]
    kept = [layer.attention.options.window for layer in excerpt._layers]
    assert (set(kept), len(kept)) == (set(windows), layers)
    assert excerpt.projections == decoder.projections


def test_projections_of_the_decoder() -> None:
    decoder = fuse(make_model(CONFIGS["qwen2"]()))
    assert len(decoder.projections) == 3 * 4
    layer = "model.layers.1"
    products = {
        f"{layer}.self_attn.qkv_proj": [f"{layer}.self_attn.{part}_proj" for part in "qkv"],
        f"{layer}.self_attn.o_proj": [f"{layer}.self_attn.o_proj"],
        f"{layer}.mlp.gate_up_proj": [f"{layer}.mlp.gate_proj", f"{layer}.mlp.up_proj"],
        f"{layer}.mlp.down_proj": [f"{layer}.mlp.down_proj"],
    }
    found = {packed.name: [site.name for site in packed.sites] for packed in decoder.projections}
    assert list(found)[4:8] == list(products)
    assert {name: found[name] for name in products} == products
