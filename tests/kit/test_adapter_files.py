"""The tiny checkpoints of the kit, against PEFT and the checkpoint reader."""

from __future__ import annotations

import torch

from loramux.lora.checkpoint.summary import summarise_checkpoint
from loramux.testing import write_adapter
from tests.lora.peft_adapters import peft_deltas, read_config
from tests.lora.reading import MODELS, read

LAYERS = {"model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"}


def test_the_reader_computes_what_peft_computes(tmp_path, adapter_files):
    path = adapter_files(tmp_path / "adapter", rank=3)
    deltas = peft_deltas(MODELS["llama"], path)
    pairs = read(path).pairs
    assert set(pairs) == set(deltas) == LAYERS
    for layer, pair in pairs.items():
        assert pair.rank == 3
        assert pair.b.abs().min() > 0
        torch.testing.assert_close(pair.scaling * pair.b @ pair.a, deltas[layer])


def test_an_adapter_is_its_seed(tmp_path, adapter_files):
    digests = [
        summarise_checkpoint(adapter_files(tmp_path / str(number), seed=seed)).digest
        for number, seed in enumerate((1, 1, 2))
    ]
    assert digests[0] == digests[1] != digests[2]
    assert digests[0] == read(tmp_path / "0").digest


def test_it_may_be_made_for_other_layers_and_name_its_base(tmp_path, adapter_files):
    layers = {"model.layers.1.mlp.up_proj": (16, 24)}
    path = adapter_files(tmp_path / "adapter", layers=layers, base_model_name="org/base")
    assert set(read(path, base_names={"base"}).pairs) == set(layers)
    assert read_config(path)["base_model_name_or_path"] == "org/base"


def test_writing_again_replaces_the_adapter(tmp_path):
    first = summarise_checkpoint(write_adapter(tmp_path, seed=1))
    second = summarise_checkpoint(write_adapter(str(tmp_path), seed=2, rank=1))
    assert (first.ranks, second.ranks) == ((4,), (1,))
    assert len(list(tmp_path.iterdir())) == 2
