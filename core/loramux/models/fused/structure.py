"""Is a model exactly what the table of families says? Else it must run unfused."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn

from loramux.models.backbone import Backbone
from loramux.models.fused.families import ACTIVATIONS, FAMILIES, HEAD_NORMS, Family

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
HARMLESS: dict[str, tuple[Any, ...]] = {
    "pretraining_tp": (None, 1),
    "use_bidirectional_attention": (None, False),
}
"""Settings of a configuration that no family here computes, with the values that ask nothing."""


class UnfusableError(Exception):
    """Why a model runs unfused."""


def require(condition: bool, reason: str) -> None:
    """Raise :class:`UnfusableError` for this reason if the condition does not hold."""
    if not condition:
        raise UnfusableError(reason)


def known_family(model: nn.Module) -> Family:
    """The family of a model, if nothing about it is other than the table says.

    Raises:
        UnfusableError: something is, or its ``model_type`` is not in the table.
    """
    config: Any = model.config
    require(config.model_type in FAMILIES, f"{config.model_type} is not in the table of families")
    family = FAMILIES[config.model_type]
    # Remote code and subclasses share the model_type, and may compute anything.
    known = _is_transformers_own(model, family)
    require(known, f"its class is not transformers' own {family.architecture}")
    replaced = [name for name, module in model.named_modules() if "forward" in vars(module)]
    require(not replaced, f"the forward of {(replaced or [''])[0]!r} is replaced")
    _check_config(config, family)
    _check_ends(model, family)
    for index, layer in enumerate(model.get_submodule("model.layers").children()):
        _check_layer(layer, family, config, f"layer {index}")
    _check_weights(model)
    return family


def _is_transformers_own(model: nn.Module, family: Family) -> bool:
    if isinstance(model, Backbone):
        return type(model.decoder) is transformers.MODEL_MAPPING.get(type(model.config), None)
    return type(model) is getattr(transformers, family.architecture)


def _check_config(config: Any, family: Family) -> None:
    activation = getattr(config, family.activation)
    require(activation in ACTIVATIONS, f"its activation {activation!r} has no kernel")
    softcaps = {
        "attn_logit_softcapping": family.attention_softcap,
        "final_logit_softcapping": family.logit_softcap,
    }
    for name, known in softcaps.items():
        require(known or getattr(config, name, None) is None, f"{name} is set")
    for name, harmless in HARMLESS.items():
        value = getattr(config, name, None)
        require(value in harmless, f"{name} is {value!r}")


def _check_ends(model: nn.Module, family: Family) -> None:
    """Nothing before, after or beside the layers but embedding, norm and output."""
    outside = {name for name, _ in model.named_parameters() if not name.startswith("model.layers.")}
    known = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    require(outside <= known, f"it has a parameter {min(outside - known, default='')} more")
    embedding = model.get_submodule("model.embed_tokens")
    scaled = hasattr(embedding, "embed_scale")
    require(scaled == family.scaled_embedding, "its embedding is scaled, or not, unlike its family")
    require(scaled or type(embedding) is nn.Embedding, "its embedding is no plain nn.Embedding")
    plain = isinstance(model, Backbone) or type(model.get_submodule("lm_head")) is nn.Linear
    require(plain, "its lm_head is no plain nn.Linear")
    _check_norm(model.get_submodule("model.norm"), family, "model.norm")
    layers = len(list(model.get_submodule("model.layers").children()))
    config: Any = model.config
    require(0 < layers == config.num_hidden_layers, f"it has {layers} layers, unlike its config")


def _check_layer(layer: nn.Module, family: Family, config: Any, where: str) -> None:
    linears = [name for product in family.products for name in product.members]
    norms = [*family.norms.present, *(HEAD_NORMS if family.head_norms else ())]
    weights = {f"{name}.weight" for name in (*linears, *norms)}
    biases = {f"{name}.bias" for name in linears}
    found = {name for name, _ in (*layer.named_parameters(), *layer.named_buffers())}
    require(weights <= found, f"{where} has no {min(weights - found, default='')}")
    extra = found - weights - biases
    require(not extra, f"{where} has {min(extra, default='')} more than its family")
    for name in linears:
        plain = type(layer.get_submodule(name)) is nn.Linear
        require(plain, f"{name} of {where} is no plain nn.Linear")
    for product in family.products:
        biased = {f"{name}.bias" in found for name in product.members}
        require(len(biased) == 1, f"some parts of {product.name} in {where} have a bias, some none")
    for name in norms:
        _check_norm(layer.get_submodule(name), family, f"{name} of {where}")
    _check_heads(layer, family, config, where)


def _check_norm(norm: nn.Module, family: Family, where: str) -> None:
    epsilon = "eps" if family.plus_one_norms else "variance_epsilon"
    known = type(norm).__name__.endswith("RMSNorm") and hasattr(norm, epsilon)
    require(known, f"{where} is not the RMSNorm of its family")


def _check_heads(layer: nn.Module, family: Family, config: Any, where: str) -> None:
    """The rows of the first product are query, key and value heads, all of one width."""
    attention: Any = layer.get_submodule("self_attn")
    heads = config.num_attention_heads + 2 * config.num_key_value_heads
    members = [layer.get_parameter(f"{name}.weight") for name in family.products[0].members]
    width = sum(len(weight) for weight in members)
    fits = width == heads * attention.head_dim
    require(fits, f"{where} has heads of other sizes than its config says")


def _check_weights(model: nn.Module) -> None:
    dtypes = {parameter.dtype for parameter in model.parameters()}
    require(len(dtypes) == 1, f"its weights have {len(dtypes)} types")
    require(dtypes <= set(FLOATS), f"its weights are {min(map(str, dtypes))}")
    devices = {parameter.device for parameter in model.parameters()}
    require(len(devices) == 1, f"its weights lie on {len(devices)} devices")
    require("meta" not in {device.type for device in devices}, "it has no weights")
