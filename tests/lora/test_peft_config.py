"""Every field of adapter_config.json is used, harmless, or refused by name."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig

from loramux.errors import AdapterRefusedError
from loramux.lora.checkpoint import peft_config
from loramux.lora.checkpoint.peft_config import parse_config

MINIMAL = {"peft_type": "LORA", "target_modules": ["q_proj"]}


def parsed(**fields):
    return parse_config(json.dumps({**MINIMAL, **fields}).encode())


def refusal(**fields) -> str:
    with pytest.raises(AdapterRefusedError) as caught:
        parsed(**fields)
    message = str(caught.value)
    assert message.startswith("adapter_config.json: field ")
    assert message.endswith(".")
    return message


def test_defaults_are_pefts():
    config, default = parsed(), LoraConfig()
    assert (config.r, config.lora_alpha) == (default.r, default.lora_alpha)
    assert (config.use_rslora, config.ensure_weight_tying) == (False, False)
    assert (config.rank_pattern, config.alpha_pattern) == ({}, {})


def test_every_field_of_lora_config_has_a_decision():
    decided = (
        peft_config._USED
        | peft_config._HARMLESS
        | set(peft_config._REFUSED_IF_SET)
        | set(peft_config._REFUSED_IF_PRESENT)
    )
    assert {field.name for field in dataclasses.fields(LoraConfig)} <= decided


def test_what_peft_writes_can_be_read(tmp_path):
    LoraConfig(target_modules={"v_proj", "q_proj"}, r=512, modules_to_save=[]).save_pretrained(
        str(tmp_path)
    )
    config = parse_config((tmp_path / "adapter_config.json").read_bytes())
    assert config.r == 512
    assert sorted(config.target_modules) == ["q_proj", "v_proj"]


OLD_CONFIGS = {
    "0.3": {
        "base_model_name_or_path": "decapoda-research/llama-7b-hf", "bias": "none",
        "fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": True,
        "lora_alpha": 16, "lora_dropout": 0.05, "modules_to_save": None, "peft_type": "LORA",
        "r": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM",
    },
    "0.2": {"peft_type": "LORA", "r": 8, "target_modules": ["q_proj"], "merge_weights": False,
            "enable_lora": None},
    "0.5": {"peft_type": "LORA", "auto_mapping": {"base_model_class": "LlamaForCausalLM"},
            "layers_pattern": None, "layers_to_transform": None, "revision": "main",
            "target_modules": "all-linear", "rank_pattern": {}, "alpha_pattern": {}},
    "typo in the task": {**MINIMAL, "task_type": "CASUAL_LM", "lora_alpha": 32.0},
    "0.18": {**MINIMAL, "loftq_config": {}, "megatron_config": None, "corda_config": None,
             "megatron_core": "megatron.core", "qalora_group_size": 16, "use_dora": False,
             "eva_config": {"rho": 2.0}, "trainable_token_indices": None, "lora_bias": False,
             "peft_version": "0.18.0", "target_parameters": None, "modules_to_save": []},
    "nulls": {**MINIMAL, "rank_pattern": None, "alpha_pattern": None, "use_rslora": None,
              "bias": None, "init_lora_weights": None, "fan_in_fan_out": None},
    "unknown but empty": {**MINIMAL, "use_dovera": False, "a": None, "b": [], "c": {}, "d": ""},
}  # fmt: skip


@pytest.mark.parametrize("version", OLD_CONFIGS)
def test_configs_of_all_ages_are_accepted(version):
    parse_config(json.dumps(OLD_CONFIGS[version]).encode())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("alora_invocation_tokens", [1, 2]),
        ("arrow_config", {"top_k": 3}),
        ("arrow_config", {}),
        ("bias", "all"),
        ("bias", "lora_only"),
        ("init_lora_weights", "corda"),
        ("init_lora_weights", "loftq"),
        ("init_lora_weights", "lora_ga"),
        ("init_lora_weights", "OLoRA"),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "pissa_niter_16"),
        ("init_lora_weights", "no such method"),
        ("init_lora_weights", 1),
        ("kasa_config", {"beta": 1}),
        ("kasa_config", {}),
        ("layer_replication", [[0, 2], [1, 2]]),
        ("lora_bias", True),
        ("megatron_config", {"num_layers": 2}),
        ("modules_to_save", ["lm_head"]),
        ("monteclora_config", {}),
        ("peft_type", "IA3"),
        ("peft_type", "lora"),
        ("peft_type", None),
        ("target_modules", None),
        ("target_parameters", ["experts.gate_up_proj"]),
        ("trainable_token_indices", [3]),
        ("trainable_token_indices", {"embed_tokens": [3]}),
        ("use_bdlora", {}),
        ("use_dora", True),
        ("use_dora", "false"),
        ("use_qalora", True),
        ("velora_config", {}),
        ("enable_lora", [True, False, True]),
        ("invented_in_2030", 1),
        ("x" * 10_000, "y" * 10_000),
    ],
)
def test_what_plain_lora_does_not_compute_is_refused(field, value):
    message = refusal(**{field: value})
    assert field[:30] in message
    assert len(message) < 500


@pytest.mark.parametrize("init", ["pissa", "olora", "corda", "lora_ga"])
def test_base_changing_initialisations_come_with_the_remedy(init):
    assert "path_initial_model_for_weight_conversion" in refusal(init_lora_weights=init)


@pytest.mark.parametrize("init", [True, False, "gaussian", "Gaussian", "eva", "orthogonal", "mica"])
def test_base_keeping_initialisations_are_accepted(init):
    assert parsed(init_lora_weights=init) == parsed()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("r", 0), ("r", -1), ("r", True), ("r", 8.0), ("r", "8"), ("r", 2**63), ("r", None),
        ("lora_alpha", "16"), ("lora_alpha", True), ("lora_alpha", None),
        ("lora_alpha", 10**400), ("lora_alpha", [16]), ("lora_alpha", -1e39),
        ("alpha_pattern", {"q_proj": 1e300}),
        ("use_rslora", 1), ("use_rslora", "true"), ("fan_in_fan_out", 1),
        ("rank_pattern", []), ("rank_pattern", {"q_proj": 0}), ("rank_pattern", {"q_proj": True}),
        ("rank_pattern", {"q_proj": 4.0}), ("alpha_pattern", {"q_proj": "x"}),
        ("alpha_pattern", "x"), ("target_modules", 3), ("target_modules", ["q_proj", 3]),
        ("target_modules", {"q_proj": 1}), ("exclude_modules", 3), ("exclude_modules", [None]),
        ("layers_to_transform", True), ("layers_to_transform", [0, True]),
        ("layers_to_transform", "1"), ("layers_to_transform", [1.0]), ("layers_pattern", 3),
        ("base_model_name_or_path", 3), ("ensure_weight_tying", "yes"),
    ],
)  # fmt: skip
def test_wrong_types_are_refused(field, value):
    assert repr(field) in refusal(**{field: value})


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": "all-linear", "layers_to_transform": [0]},
        {"target_modules": ".*q_proj", "layers_to_transform": []},
        {"target_modules": ".*q_proj", "layers_pattern": "layers"},
        {"layers_pattern": "layers"},
        {"layers_pattern": ["layers"]},
    ],
)
def test_layer_choices_that_peft_refuses(fields):
    with pytest.raises(ValueError, match="layers_"):
        LoraConfig(**{**MINIMAL, **fields})
    assert "layers_" in refusal(**fields)


@pytest.mark.parametrize(
    "text",
    [
        b"", b"[]", b"null", b'{"peft_type": "LORA"', b'{"r": NaN}', b'{"r": -Infinity}',
        b'{"r": 8, "r": 16}', b'{"a": {"b": 1, "b": 2}}', b"\xff{}", b"\xef\xbb\xbf{}",
        b'{"use_rslora":}', b"[" * 500_000, b'{"a":' * 200_000, b'{"r": ' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
def test_broken_json_is_refused(text):
    with pytest.raises(AdapterRefusedError, match=r"^adapter_config\.json .*again\.$"):
        parse_config(text)


def test_overflowing_float_is_refused():
    text = json.dumps(MINIMAL)[:-1] + ', "lora_alpha": 1e999}'
    with pytest.raises(AdapterRefusedError, match="'lora_alpha' must be a finite number"):
        parse_config(text.encode())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(peft_config._USED)), JSON, max_size=4))
def test_any_json_is_read_or_refused(fields):
    try:
        config = parsed(**fields)
    except AdapterRefusedError:
        return
    assert config.r >= 1


def test_identity_ignores_what_changes_nothing():
    first = parsed(target_modules=["a", "b"], lora_dropout=0.1, base_model_name_or_path="x")
    second = parsed(target_modules=["b", "a", "b"], lora_alpha=8.0)
    assert first.identity() == second.identity()


@pytest.mark.parametrize(
    "fields",
    [
        {"r": 4}, {"lora_alpha": 9}, {"use_rslora": True}, {"rank_pattern": {"q": 2}},
        {"alpha_pattern": {"q": 2}}, {"target_modules": "q_proj"}, {"exclude_modules": ["x"]},
        {"layers_to_transform": 0}, {"layers_to_transform": [0], "layers_pattern": "h"},
    ],
)  # fmt: skip
def test_identity_changes_with_each_field_that_counts(fields):
    assert parsed(**fields).identity() != parsed().identity()


def test_identity_keeps_the_order_of_patterns():
    one, other = {"q": 2, "k": 4}, {"k": 4, "q": 2}
    assert parsed(rank_pattern=one).identity() != parsed(rank_pattern=other).identity()
