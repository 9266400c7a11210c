"""What is read computes what PEFT computes."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
import torch
from blake3 import blake3

from loramux.lora.checkpoint.peft_config import parse_config
from tests.lora.peft_adapters import (
    PREFIX,
    change_config,
    change_tensors,
    make_adapter,
    peft_deltas,
    read_tensors,
    tiny_llama,
)
from tests.lora.reading import LAYER, MODELS, A, read, refusal


def assert_as_peft(path: Path, model: str) -> None:
    weights, deltas = read(path, model), peft_deltas(MODELS[model], path)
    assert set(weights.pairs) == set(deltas)
    for name, pair in weights.pairs.items():
        update = pair.scaling * (pair.b.double() @ pair.a.double())
        torch.testing.assert_close(update, deltas[name].double(), rtol=1e-4, atol=1e-5)
        assert update.abs().max() > 0.1


CASES = {
    "list": ("llama", {"target_modules": ["q_proj", "v_proj"]}),
    "suffix": ("llama", {"target_modules": ["self_attn.q_proj", "mlp.down_proj"]}),
    "rank 1": ("llama", {"target_modules": ["q_proj"], "r": 1, "lora_alpha": 3}),
    "float alpha": ("llama", {"target_modules": ["q_proj"], "r": 3, "lora_alpha": 7.5}),
    "rslora": ("llama", {"target_modules": ["q_proj"], "r": 8, "use_rslora": True}),
    "all-linear": ("llama", {"target_modules": "all-linear"}),
    "regex": ("llama", {"target_modules": r".*\.1\..*(q|gate)_proj"}),
    "excluded list": ("llama", {"target_modules": "all-linear", "exclude_modules": ["o_proj"]}),
    "excluded regex": (
        "llama",
        {"target_modules": ["q_proj", "k_proj"], "exclude_modules": r".*layers\.0\..*"},
    ),
    "one layer": ("llama", {"target_modules": ["q_proj"], "layers_to_transform": 1}),
    "layers": (
        "llama",
        {"target_modules": ["up_proj"], "layers_to_transform": [0], "layers_pattern": "layers"},
    ),
    "patterns": (
        "llama",
        {
            "target_modules": ["q_proj", "v_proj", "down_proj"],
            "rank_pattern": {r"layers\.1\..*": 8, "q_proj": 2},
            "alpha_pattern": {"^model.layers.0.mlp.down_proj": 5, "v_proj": 3},
        },
    ),
    "patterns with rslora": (
        "llama",
        {"target_modules": "all-linear", "rank_pattern": {"up_proj": 9}, "use_rslora": True},
    ),
    "lm_head": ("llama", {"target_modules": ["lm_head", "q_proj"]}),
    "embedding": ("llama", {"target_modules": ["embed_tokens"], "r": 5}),
    "gaussian": ("llama", {"target_modules": ["q_proj"], "init_lora_weights": "gaussian"}),
    "mica": ("llama", {"target_modules": ["q_proj"], "init_lora_weights": "mica"}),
    "gpt2 fan_in": ("gpt2", {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}),
    "gpt2 wrong fan_in": ("gpt2", {"target_modules": ["c_attn"], "fan_in_fan_out": False}),
    "llama wrong fan_in": ("llama", {"target_modules": ["q_proj"], "fan_in_fan_out": True}),
    "gpt2 all-linear": ("gpt2", {"target_modules": "all-linear"}),
    "gpt2 mixed": ("gpt2", {"target_modules": ["wte", "wpe", "lm_head", "c_proj"]}),
    "phi3": ("phi3", {"target_modules": ["qkv_proj", "gate_up_proj", "o_proj"], "r": 6}),
    "phi3 all-linear": ("phi3", {"target_modules": "all-linear", "use_rslora": True}),
    "gemma": ("gemma", {"target_modules": ["embed_tokens", "lm_head", "q_proj"]}),
}


@pytest.mark.parametrize("case", CASES)
def test_updates_are_pefts(case, tmp_path):
    model, fields = CASES[case]
    assert_as_peft(make_adapter(MODELS[model], tmp_path / "adapter", **fields), model)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_file_types_are_kept(dtype, tmp_path):
    path = make_adapter(
        MODELS["llama"], tmp_path / "adapter", target_modules=["q_proj", "lm_head"], dtype=dtype
    )
    assert_as_peft(path, "llama")
    assert {half.dtype for pair in read(path).pairs.values() for half in (pair.a, pair.b)} == {
        dtype
    }


def test_types_may_differ_within_a_file(adapter):
    change_tensors(adapter, {**read_tensors(adapter), A: read_tensors(adapter)[A].half()})
    assert_as_peft(adapter, "llama")
    pair = read(adapter).pairs[LAYER]
    assert (pair.a.dtype, pair.b.dtype) == (torch.float16, torch.float32)


def test_adapter_name_inside_the_tensor_names(adapter):
    plain = read_tensors(adapter)
    change_tensors(
        adapter, {key.replace(".weight", ".default.weight"): t for key, t in plain.items()}
    )
    assert_as_peft(adapter, "llama")


def test_unaligned_tensors_are_read(adapter):
    file = adapter / "adapter_model.safetensors"
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    file.write_bytes(
        struct.pack("<Q", length + 1) + content[8 : 8 + length] + b" " + content[8 + length :]
    )
    assert_as_peft(adapter, "llama")


def test_links_inside_the_directory_are_followed(adapter, tmp_path):
    file = adapter / "adapter_model.safetensors"
    file.rename(tmp_path / "blob")
    file.symlink_to(tmp_path / "blob")
    assert read(adapter).max_rank == 4


def test_digest_covers_tensors_and_configuration(adapter):
    first = read(adapter).digest
    assert len(first) == 64
    assert (
        read(change_config(adapter, lora_dropout=0.3, base_model_name_or_path="x")).digest == first
    )
    assert read(change_config(adapter, lora_alpha=9)).digest != first
    change_config(adapter, lora_alpha=8)
    assert read(adapter).digest == first
    tensors = read_tensors(adapter)
    tensors[A][0, 0] += 1
    assert read(change_tensors(adapter, tensors)).digest != first


@pytest.mark.parametrize("piece_bytes", [64, 2**24])
def test_digest_is_a_tree_of_hashes(adapter, piece_bytes, monkeypatch):
    monkeypatch.setattr("loramux.lora.checkpoint.pieces.PIECE_BYTES", piece_bytes)
    content = (adapter / "adapter_model.safetensors").read_bytes()
    data = 8 + int.from_bytes(content[:8], "little")
    parts = [content[:data]]
    parts += [content[i : i + piece_bytes] for i in range(data, len(content), piece_bytes)]
    config = parse_config((adapter / "adapter_config.json").read_bytes())
    leaves = b"".join(blake3(part).digest() for part in parts)
    expected = blake3(config.identity() + b"\0" + leaves).hexdigest()
    for threads in ("1", "3"):
        monkeypatch.setenv("LORAMUX_READ_THREADS", threads)
        assert read(adapter).digest == expected


def test_large_tensors_are_read_by_several_threads(adapter, monkeypatch):
    monkeypatch.setattr("loramux.lora.checkpoint.pieces.PIECE_BYTES", 64)
    monkeypatch.setenv("LORAMUX_READ_THREADS", "4")
    assert_as_peft(adapter, "llama")


def test_digest_and_tensors_come_from_one_read(adapter, monkeypatch):
    opened = []
    real_open = os.open
    monkeypatch.setattr(
        os, "open", lambda path, *a: opened.append(Path(path).name) or real_open(path, *a)
    )
    read(adapter)
    assert opened == ["adapter_config.json", "adapter_model.safetensors"]


# Copies of base weights, which PEFT saves with adapters of the embeddings


@pytest.fixture
def with_copies(tmp_path) -> Path:
    path = make_adapter(
        MODELS["llama"],
        tmp_path / "copies",
        target_modules=["embed_tokens", "lm_head"],
        save_embedding_layers="auto",
    )
    assert f"{PREFIX}lm_head.base_layer.weight" in read_tensors(path)
    return path


def test_copies_of_base_weights_are_accepted_where_equal(with_copies):
    weights = read(with_copies, base_parameter=MODELS["llama"].get_parameter)
    assert set(weights.pairs) == {"model.embed_tokens", "lm_head"}
    storages = {
        half.untyped_storage().nbytes() for p in weights.pairs.values() for half in (p.a, p.b)
    }
    assert max(storages) <= 4 * 64 * 4


def test_copies_are_compared_as_the_base_model_holds_them(with_copies):
    rounded = tiny_llama().bfloat16()
    assert read(with_copies, base_parameter=rounded.get_parameter).pairs


def test_copies_that_cannot_be_compared_are_refused(with_copies):
    message = refusal(with_copies)
    assert "base_layer.weight" in message
    assert "save_embedding_layers=False" in message


@pytest.mark.parametrize(
    "key", ["lm_head.base_layer.weight", "model.embed_tokens.base_layer.weight"]
)
def test_changed_base_weights_are_refused(with_copies, key):
    tensors = read_tensors(with_copies)
    tensors[PREFIX + key][3, 3] += 0.5
    change_tensors(with_copies, tensors)
    assert key in refusal(with_copies, base_parameter=MODELS["llama"].get_parameter)


def test_resized_base_weights_are_refused(with_copies):
    tensors = read_tensors(with_copies)
    key = f"{PREFIX}lm_head.base_layer.weight"
    tensors[key] = torch.cat([tensors[key], tensors[key][:1]])
    change_tensors(with_copies, tensors)
    assert key in refusal(with_copies, base_parameter=MODELS["llama"].get_parameter)
