"""Packed weights: held once, shared with the transformers model, packed a layer at a time."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.paged_steps import (
    CONFIGS,
    MAX_POSITIONS,
    Tokens,
    assert_same,
    fuse,
    make_caches,
    make_model,
    run_fused,
    run_model,
)


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    storages = (tensor.untyped_storage() for tensor in tensors)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def live_tensors() -> Iterator[Tensor]:
    return (found for found in gc.get_objects() if issubclass(type(found), Tensor))


@pytest.mark.parametrize("family", ["llama-tied", "llama-biased", "phi3", "gemma2"])
def test_the_transformers_model_computes_the_same_over_no_more_memory(family: str) -> None:
    reference, model = make_model(CONFIGS[family]()), make_model(CONFIGS[family]())
    before = storage_bytes(model.parameters())
    decoder = fuse(model)
    assert storage_bytes(model.parameters()) == before
    expected = run_model(reference, make_caches(reference), Tokens.prefill())
    assert torch.equal(run_model(model, make_caches(model), Tokens.prefill()), expected)
    assert_same(run_fused(decoder, make_caches(model), Tokens.prefill()), expected)


@pytest.mark.parametrize("kind", ["weight", "bias"])
@pytest.mark.parametrize("part", ["self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj"])
def test_parameters_are_views_of_the_packed_tensors(part: str, kind: str) -> None:
    model = make_model(CONFIGS["llama-biased"]())
    name = f"model.layers.1.{part}.{kind}"
    held = model.get_parameter(name)
    values = held.clone()
    decoder = fuse(model)
    assert model.get_parameter(name) is held
    assert torch.equal(held, values)

    before = run_fused(decoder, make_caches(model), Tokens.prefill())
    held.mul_(1.5)
    after = run_fused(decoder, make_caches(model), Tokens.prefill())
    assert not torch.allclose(before, after)
    assert_same(after, run_model(model, make_caches(model), Tokens.prefill()))


def test_parts_of_a_product_lie_in_one_storage() -> None:
    model = make_model(CONFIGS["llama"]())
    fuse(model)
    parts = [model.get_parameter(f"model.layers.0.self_attn.{p}_proj.weight") for p in "qkv"]
    assert len({part.untyped_storage().data_ptr() for part in parts}) == 1
    assert [part.storage_offset() for part in parts] == [0, 32 * 32, 48 * 32]


def test_tied_embeddings_stay_tied() -> None:
    model = make_model(CONFIGS["llama-tied"]())
    decoder = fuse(model)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    before = run_fused(decoder, make_caches(model), Tokens.prefill())
    model.model.embed_tokens.weight.mul_(2)
    after = run_fused(decoder, make_caches(model), Tokens.prefill())
    assert not torch.allclose(before, after)
    assert_same(after, run_model(model, make_caches(model), Tokens.prefill()))


def test_packing_holds_one_layer_twice_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(CONFIGS["llama"]())
    layer = storage_bytes(model.model.layers[0].parameters())
    rotary_tables = 2 * MAX_POSITIONS * 8 * 4
    concatenate, held = torch.cat, []

    def watched(tensors: Any, *args: Any, **kwargs: Any) -> Tensor:
        result = concatenate(tensors, *args, **kwargs)
        held.append(storage_bytes(live_tensors()))
        return result

    gc.collect()
    before = storage_bytes(live_tensors())
    monkeypatch.setattr(torch, "cat", watched)
    fuse(model)
    packing = held[-2 * len(model.model.layers) :]  # the last of a layer is that of gate and up
    assert max(packing) <= before + layer + rotary_tables
    assert max(packing) > before
