"""Adapters that do not fit the base model or the server are refused by name."""

from __future__ import annotations

from itertools import cycle

import pytest
import torch

from loramux.errors import AdapterRefusedError
from loramux.lora.checkpoint.reader import check_base_name
from tests.lora.peft_adapters import (
    PREFIX,
    change_config,
    change_tensors,
    read_tensors,
)
from tests.lora.reading import LAYER, MODELS, A, B, read, refusal


@pytest.mark.parametrize(
    ("declared", "names"),
    [
        ("meta-llama/Llama-3", ["meta-llama/Llama-3"]),
        ("other/Llama-3", ["meta-llama/Llama-3"]),
        ("/models/Llama-3/", ["served-name", "meta-llama/Llama-3"]),
        ("C:\\models\\Llama-3", ["Llama-3"]),
        (None, ["Llama-3"]),
        ("", ["Llama-3"]),
        ("anything", None),
    ],
)
def test_bases_that_fit(adapter, declared, names):
    assert read(change_config(adapter, base_model_name_or_path=declared), base_names=names).pairs


@pytest.mark.parametrize("declared", ["meta-llama/llama-3", "meta-llama/Llama-3-Chat", "/", "3"])
def test_another_base_is_refused(adapter, declared):
    change_config(adapter, base_model_name_or_path=declared)
    message = refusal(adapter, base_names=["meta-llama/Llama-3"])
    assert "'base_model_name_or_path'" in message
    assert "'meta-llama/Llama-3'" in message
    for remedy in ("--no-verify-lora-base", "--served-model-name", "base_model_name)."):
        assert remedy in message


def test_another_base_that_the_requester_declares_is_refused(adapter):
    check_base_name(adapter, "other/Llama-3", ["meta-llama/Llama-3"])
    with pytest.raises(AdapterRefusedError) as refused:
        check_base_name(adapter, "org/base", ["meta-llama/Llama-3"])
    assert str(refused.value) == (
        f"{adapter}: base_model_name declares it for the base model 'org/base', but the one here "
        "is 'meta-llama/Llama-3'; ask a server of that model, or leave base_model_name out."
    )
    assert refused.value.without_place("sql").startswith("Adapter 'sql': base_model_name declares")


def test_rank_above_the_limit_is_refused(adapter):
    assert read(adapter, max_rank=4)
    assert "rank 4 exceeds max_lora_rank 3; start with --max-lora-rank 4" in refusal(
        adapter, max_rank=3
    )


def test_only_ranks_of_targeted_layers_count(adapter):
    assert read(change_config(adapter, rank_pattern={"no_such_layer": 1000})).max_rank == 4


def test_large_file_is_refused_unread(adapter):
    size = (adapter / "adapter_model.safetensors").stat().st_size
    assert read(adapter, max_bytes=size)
    assert f"has {size} bytes, more than the {size - 1} allowed" in refusal(
        adapter, max_bytes=size - 1
    )


# Tensors that do not fit


def test_missing_half_is_refused(adapter):
    tensors = read_tensors(adapter)
    del tensors[B]
    assert f"'{LAYER} (B)' is missing" in refusal(change_tensors(adapter, tensors))


def test_targeted_layer_without_tensors_is_refused(adapter):
    message = refusal(change_config(adapter, target_modules=["q_proj", "down_proj", "o_proj"]))
    assert "'model.layers.0.self_attn.o_proj (A)' and 3 more is missing" in message


def test_tensor_of_an_untargeted_layer_is_refused(adapter):
    message = refusal(change_config(adapter, target_modules=["down_proj"]))
    assert "self_attn.q_proj" in message
    assert "and 3 more" in message
    assert "target_modules" in message


@pytest.mark.parametrize(
    "key",
    [
        f"{PREFIX}model.layers.9.self_attn.q_proj.lora_A.weight",
        f"{PREFIX}model.layers.0.mlp.lora_A.weight",
        f"{PREFIX}{LAYER}.base_layer.lora_A.weight",
        f"{PREFIX}_orig_mod.{LAYER}.lora_A.weight",
        f"{PREFIX}{LAYER}.lora_A.bias",
        f"{PREFIX}{LAYER}.lora_B.bias",
        f"{PREFIX}{LAYER}.lora_magnitude_vector",
        f"{PREFIX}{LAYER}.bias",
        f"{PREFIX}lm_head.modules_to_save.weight",
        f"{PREFIX}model.embed_tokens.weight",
        f"{PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta",
        f"{PREFIX}{LAYER}.lora_A.first.second.weight",
        f"{LAYER}.lora_A.weight",
        "weight",
        "",
        "x" * 5000,
    ],
)
def test_any_other_tensor_is_refused_by_name(adapter, key):
    change_tensors(adapter, {**read_tensors(adapter), key: torch.ones(4, 16)})
    message = refusal(adapter, base_parameter=MODELS["llama"].get_parameter)
    assert key[:30] in message


def test_names_without_the_prefix_are_explained(adapter):
    tensors = {key.removeprefix(PREFIX): t for key, t in read_tensors(adapter).items()}
    assert "must start with 'base_model.model.'" in refusal(change_tensors(adapter, tensors))


def test_two_adapters_in_one_file_are_refused(adapter):
    tensors = read_tensors(adapter)
    second = {key.replace(".weight", ".second.weight"): t.clone() for key, t in tensors.items()}
    assert "several adapters" in refusal(change_tensors(adapter, {**tensors, **second}))


def test_one_half_under_two_names_is_refused(adapter):
    tensors = read_tensors(adapter)
    tensors[f"{PREFIX}{LAYER}.lora_embedding_A"] = tensors[A].clone()
    assert "same half" in refusal(change_tensors(adapter, tensors))


def test_halves_of_two_adapters_are_refused(adapter):
    tensors = read_tensors(adapter)
    tensors[B.replace(".weight", ".second.weight")] = tensors.pop(B)
    assert "several adapters" in refusal(change_tensors(adapter, tensors))


def test_layers_of_two_adapters_are_refused(adapter):
    tensors = read_tensors(adapter)
    for key in (A, B):
        tensors[key.replace(".weight", ".second.weight")] = tensors.pop(key)
    assert "several adapters" in refusal(change_tensors(adapter, tensors))


def test_embedding_halves_on_a_linear_layer_are_refused(adapter):
    tensors = read_tensors(adapter)
    tensors[f"{PREFIX}{LAYER}.lora_embedding_A"] = tensors.pop(A)
    assert "another kind of layer than linear" in refusal(change_tensors(adapter, tensors))


@pytest.mark.parametrize("shape", [(16, 4), (4, 15), (3, 16), (64,), (4, 16, 1), ()])
def test_wrong_shapes_are_refused(adapter, shape):
    change_tensors(adapter, {**read_tensors(adapter), A: torch.ones(shape)})
    message = refusal(adapter)
    assert A in message
    assert f"the shape {list(shape)} instead of [4, 16]" in message


def test_rank_of_the_configuration_decides(adapter):
    assert "instead of [8, 16]" in refusal(change_config(adapter, r=8))


def test_empty_tensors_of_sharded_training_are_explained(adapter):
    change_tensors(adapter, {**read_tensors(adapter), A: torch.ones(0)})
    assert "ZeRO-3" in refusal(adapter)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_values_that_are_not_finite_are_refused(adapter, value, dtype):
    tensors = {key: tensor.to(dtype) for key, tensor in read_tensors(adapter).items()}
    for position in (0, -1):
        tensors[B] = torch.ones(16, 4, dtype=dtype)
        tensors[B].view(-1)[position] = value
        message = refusal(change_tensors(adapter, tensors))
        assert B in message
        assert "not finite" in message


@pytest.mark.parametrize("padding", ["", " "])
@pytest.mark.parametrize("threads", ["1", "3"])
def test_values_that_are_not_finite_are_found_in_any_piece(adapter, padding, threads, monkeypatch):
    """Across the edges of pieces, between types, and where tensors are not aligned in the file."""
    monkeypatch.setattr("loramux.lora.checkpoint.pieces.PIECE_BYTES", 64)
    monkeypatch.setenv("LORAMUX_READ_THREADS", threads)
    kinds = cycle([torch.bfloat16, torch.float32, torch.float64])
    plain = {key: tensor.to(next(kinds)) for key, tensor in read_tensors(adapter).items()}
    for key, tensor in plain.items():
        wrong = tensor.clone()
        wrong.view(-1)[wrong.numel() // 3] = float("-inf")
        file = change_tensors(adapter, {**plain, key: wrong}) / "adapter_model.safetensors"
        content = file.read_bytes()
        data = 8 + int.from_bytes(content[:8], "little")
        header = content[8:data] + padding.encode()
        file.write_bytes(len(header).to_bytes(8, "little") + header + content[data:])
        message = refusal(adapter)
        assert key in message
        assert "not finite" in message


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn])
def test_types_that_lora_cannot_have_are_refused(adapter, dtype):
    change_tensors(adapter, {**read_tensors(adapter), A: torch.ones(4, 16).to(dtype)})
    assert "which is none of F64, F32, F16, BF16" in refusal(adapter)
