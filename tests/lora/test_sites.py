"""The layers found are those PEFT can wrap."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel

from loramux.lora.site import LoRASite, SiteKind
from loramux.models.sites import find_sites
from tests.lora.peft_adapters import PREFIX, tiny_gemma, tiny_gpt2, tiny_llama, tiny_phi3

MODELS = {"llama": tiny_llama, "gpt2": tiny_gpt2, "phi3": tiny_phi3, "gemma": tiny_gemma}


@pytest.fixture(params=MODELS)
def model(request) -> PreTrainedModel:
    return MODELS[request.param]()


def test_peft_can_wrap_every_site_and_agrees_on_its_widths(model):
    sites = find_sites(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = get_peft_model(copy.deepcopy(model), LoraConfig(target_modules=list(sites)))
    widths = {
        name.removeprefix(PREFIX): (layer.in_features, layer.out_features)
        for name, layer in adapted.named_modules()
        if isinstance(layer, LoraLayer)
    }
    assert widths == {name: (site.in_features, site.out_features) for name, site in sites.items()}


def test_all_modules_with_a_matrix_are_sites(model):
    matrices = {
        name for name, module in model.named_modules()
        if getattr(getattr(module, "weight", None), "ndim", 0) == 2
    }  # fmt: skip
    assert set(find_sites(model)) == matrices


def test_only_the_output_embedding_is_marked(model):
    assert [name for name, site in find_sites(model).items() if site.is_output] == ["lm_head"]


def test_kinds_of_gpt2():
    sites = find_sites(tiny_gpt2())
    assert sites["transformer.wpe"] == LoRASite("transformer.wpe", SiteKind.EMBEDDING, 64, 16)
    attention = "transformer.h.1.attn.c_attn"
    assert sites[attention] == LoRASite(attention, SiteKind.CONV1D, 16, 48)
    assert sites["lm_head"] == LoRASite("lm_head", SiteKind.LINEAR, 16, 64, is_output=True)


def test_subclasses_count_and_other_layers_do_not():
    class Scaled(nn.Linear):
        pass

    model = nn.ModuleDict({"a": Scaled(3, 2), "b": nn.LayerNorm(3), "c": nn.Conv1d(3, 2, 1)})
    assert find_sites(model) == {"a": LoRASite("a", SiteKind.LINEAR, 3, 2)}


def test_shared_modules_are_found_once_as_by_named_modules():
    shared = nn.Linear(3, 2)
    assert list(find_sites(nn.ModuleDict({"first": shared, "second": shared}))) == ["first"]


def test_projection_that_fused_attention_never_calls_is_left_out():
    attention = nn.MultiheadAttention(4, 2)
    model = nn.ModuleDict({"attention": attention, "after": nn.Linear(4, 4)})
    calls = []
    attention.out_proj.register_forward_hook(lambda *_: calls.append("out_proj"))
    attention(*[torch.ones(1, 4)] * 3)
    assert not calls
    assert list(find_sites(model)) == ["after"]
