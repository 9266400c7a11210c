"""What the fused decoder does not know exactly runs unfused, untouched, and the log says why."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM

from loramux.models.fused import FusedDecoder
from tests.models.paged_steps import (
    CONFIGS,
    LONGROPE,
    MAX_POSITIONS,
    UNKNOWN,
    config,
    fuse,
    make_model,
    with_rope,
)


def assert_refused(model: nn.Module, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    storages = [parameter.data_ptr() for parameter in model.parameters()]
    with caplog.at_level(logging.INFO, logger="loramux.models.fused"):
        assert FusedDecoder.of(model, MAX_POSITIONS) is None
    assert f"runs unfused: {reason}" in caplog.text
    assert [parameter.data_ptr() for parameter in model.parameters()] == storages


@pytest.mark.parametrize("family", UNKNOWN)
def test_families_beyond_the_table(family: str, caplog: pytest.LogCaptureFixture) -> None:
    model = make_model(CONFIGS[family]())
    assert_refused(model, f"{model.config.model_type} is not in the table", caplog)


def test_no_family_of_the_tests_is_forgotten() -> None:
    assert {"gpt2", "mixtral", "olmo2", "granite"} <= set(UNKNOWN)


SETTINGS = {
    "its activation 'relu'": ("LlamaConfig", {"hidden_act": "relu"}),
    "its activation 'gelu_new'": ("LlamaConfig", {"hidden_act": "gelu_new"}),
    "pretraining_tp is 2": ("LlamaConfig", {"pretraining_tp": 2}),
    "use_bidirectional_attention is True": (
        "Gemma2Config",
        {"head_dim": 8, "use_bidirectional_attention": True},
    ),
    "attn_logit_softcapping is set": (
        "Gemma3TextConfig",
        {"head_dim": 8, "attn_logit_softcapping": 30.0},
    ),
}


@pytest.mark.parametrize("reason", SETTINGS)
def test_settings_that_nothing_here_computes(reason: str, caplog: pytest.LogCaptureFixture) -> None:
    name, changes = SETTINGS[reason]
    assert_refused(make_model(config(name, **changes)), reason, caplog)


class WiderLinear(nn.Linear):
    pass


def add_bias(model: Any) -> None:
    model.model.layers[1].self_attn.k_proj.bias = nn.Parameter(torch.zeros(16))


def add_parameter(model: Any) -> None:
    model.model.layers[2].mlp.gate = nn.Linear(32, 4)


def add_buffer(model: Any) -> None:
    model.model.layers[0].register_buffer("layer_scalar", torch.ones(1))


def replace_linear(model: Any) -> None:
    model.model.layers[0].mlp.down_proj = WiderLinear(48, 32, bias=False)


def replace_norm(model: Any) -> None:
    model.model.norm = nn.LayerNorm(32, bias=False)


def replace_forward(model: Any) -> None:
    model.model.layers[0].mlp.forward = lambda x: x


def narrow_one(model: Any) -> None:
    model.lm_head.to(torch.bfloat16)


def drop_layer(model: Any) -> None:
    del model.model.layers[1]


def add_output_bias(model: Any) -> None:
    model.lm_head.bias = nn.Parameter(torch.ones(128))


CHANGES: dict[Callable[[Any], None], str] = {
    add_bias: "some parts of self_attn.qkv_proj in layer 1 have a bias",
    add_parameter: "layer 2 has mlp.gate.bias more than its family",
    add_buffer: "layer 0 has layer_scalar more than its family",
    replace_linear: "mlp.down_proj of layer 0 is no plain nn.Linear",
    replace_norm: "model.norm is not the RMSNorm of its family",
    replace_forward: "the forward of 'model.layers.0.mlp' is replaced",
    narrow_one: "its weights have 2 types",
    drop_layer: "it has 2 layers, unlike its config",
    add_output_bias: "it has a parameter lm_head.bias more",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_modules_that_are_not_the_family_s(
    change: Callable[[Any], None], caplog: pytest.LogCaptureFixture
) -> None:
    model = make_model(CONFIGS["llama"]())
    change(model)
    assert_refused(model, CHANGES[change], caplog)


def test_a_subclass_may_compute_anything(caplog: pytest.LogCaptureFixture) -> None:
    class Remote(LlamaForCausalLM):
        pass

    model = make_model(CONFIGS["llama"]())
    model.__class__ = Remote
    assert_refused(model, "its class is not transformers' own LlamaForCausalLM", caplog)


def test_a_model_without_weights(caplog: pytest.LogCaptureFixture) -> None:
    with torch.device("meta"):
        model = LlamaForCausalLM(CONFIGS["llama"]())
    assert_refused(model, "it has no weights", caplog)


@pytest.mark.parametrize("rope", [LONGROPE, {"rope_type": "dynamic", "factor": 2.0}])
def test_rotary_factors_that_depend_on_the_length(
    rope: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    settings = with_rope(rope)
    settings.max_position_embeddings = 32
    model = make_model(settings)
    assert_refused(model, f"its rotary factors change within {MAX_POSITIONS}", caplog)
    assert FusedDecoder.of(model, 32) is not None


def test_packing_twice_is_harmless() -> None:
    model = make_model(CONFIGS["llama"]())
    assert fuse(model).projections == fuse(model).projections
