"""What is read computes what PEFT computes; what cannot is refused by name."""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path

import pytest
import torch

from loramux.errors import AdapterRefusedError, AdapterUnavailableError
from loramux.lora.checkpoint import MAX_CONFIG_BYTES, read_adapter
from loramux.lora.weights import AdapterWeights
from loramux.models.sites import find_sites
from tests.lora.peft_adapters import (
    PREFIX,
    change_config,
    change_tensors,
    make_adapter,
    peft_deltas,
    read_tensors,
    tiny_gemma,
    tiny_gpt2,
    tiny_llama,
    tiny_phi3,
)

MODELS = {"llama": tiny_llama(), "gpt2": tiny_gpt2(), "phi3": tiny_phi3(), "gemma": tiny_gemma()}
SITES = {name: find_sites(model) for name, model in MODELS.items()}
LAYER = "model.layers.0.self_attn.q_proj"
A, B = f"{PREFIX}{LAYER}.lora_A.weight", f"{PREFIX}{LAYER}.lora_B.weight"


def read(path: Path, model: str = "llama", **options) -> AdapterWeights:
    options = {"max_rank": 64, "base_names": None, **options}
    return read_adapter(path, SITES[model], **options)


def refusal(path: Path, model: str = "llama", **options) -> str:
    with pytest.raises(AdapterRefusedError) as caught:
        read(path, model, **options)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.endswith(".")
    assert len(message) < 700
    return message


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("adapters") / "llama"
    return make_adapter(MODELS["llama"], path, target_modules=["q_proj", "down_proj"])


@pytest.fixture
def adapter(pristine, tmp_path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "adapter"))


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


def test_digest_and_tensors_come_from_one_read(adapter, monkeypatch):
    opened = []
    real_open = Path.open
    monkeypatch.setattr(
        Path, "open", lambda self, *a, **k: opened.append(self.name) or real_open(self, *a, **k)
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


# Base model, rank, size


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


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn])
def test_types_that_lora_cannot_have_are_refused(adapter, dtype):
    change_tensors(adapter, {**read_tensors(adapter), A: torch.ones(4, 16).to(dtype)})
    assert "which is none of F64, F32, F16, BF16" in refusal(adapter)


# Files


def test_missing_directory_is_refused(tmp_path):
    assert "no such directory" in refusal(tmp_path / "absent")


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_missing_files_are_refused(adapter, name):
    (adapter / name).unlink()
    assert f"{name} is missing" in refusal(adapter)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_pipes_are_not_waited_for(adapter, name):
    (adapter / name).unlink()
    os.mkfifo(adapter / name)
    assert f"{name} is missing" in refusal(adapter)


def test_large_configuration_is_refused(adapter):
    text = (adapter / "adapter_config.json").read_text() + " " * MAX_CONFIG_BYTES
    (adapter / "adapter_config.json").write_text(text)
    assert "is larger than" in refusal(adapter)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_storage_errors_are_worth_another_try(adapter, name, monkeypatch):
    real_open = Path.open

    def failing_open(self, *args, **kwargs):
        if self.name == name:
            raise OSError(5, "Input/output error")
        return real_open(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", failing_open)
    with pytest.raises(
        AdapterUnavailableError, match=r"Input/output error.* try again\.$"
    ) as caught:
        read(adapter)
    assert str(caught.value).startswith(f"{adapter}: ")


def test_refusals_of_the_configuration_begin_with_the_path(adapter):
    assert "'use_dora'" in refusal(change_config(adapter, use_dora=True))


# Pickles


@pytest.fixture
def pickled(adapter) -> Path:
    torch.save(read_tensors(adapter), adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    return adapter


def test_pickle_alone_is_refused_with_the_remedy(pickled):
    assert "convert it to adapter_model.safetensors" in refusal(pickled)


def test_pickle_is_read_where_allowed(pickled, pristine):
    found, wanted = read(pickled, allow_pickle=True), read(pristine)
    assert found.digest != wanted.digest
    assert set(found.pairs) == set(wanted.pairs)
    assert torch.equal(found.pairs[LAYER].a, wanted.pairs[LAYER].a)


def test_safetensors_come_first(adapter):
    (adapter / "adapter_model.bin").write_bytes(b"never read")
    assert read(adapter, allow_pickle=True).pairs


class Malice:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def test_pickles_run_no_code(pickled, tmp_path):
    torch.save({A: Malice(tmp_path / "ran")}, pickled / "adapter_model.bin")
    assert "cannot be read as plain tensors" in refusal(pickled, allow_pickle=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content",
    [
        [torch.ones(2)],
        {A: 1},
        {1: torch.ones(2)},
        {A: torch.ones(4, 16).to_sparse()},
        {A: torch.ones(4, 16, dtype=torch.int32)},
        {A: torch.ones(4, 16, device="meta")},
    ],
)
def test_pickles_of_other_things_are_refused(pickled, content):
    torch.save(content, pickled / "adapter_model.bin")
    assert "adapter_model.bin" in refusal(pickled, allow_pickle=True)


def test_pickled_tensor_larger_than_its_file_is_refused(pickled):
    torch.save({A: torch.ones(1).expand(2**20, 2**20)}, pickled / "adapter_model.bin")
    assert "more than 1000000 bytes" in refusal(pickled, allow_pickle=True, max_bytes=10**6)


@pytest.mark.parametrize("length", [0, 1, 100])
def test_broken_pickles_are_refused(pickled, length):
    file = pickled / "adapter_model.bin"
    file.write_bytes(file.read_bytes()[:length])
    assert "adapter_model.bin" in refusal(pickled, allow_pickle=True)
