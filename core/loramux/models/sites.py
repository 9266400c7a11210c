"""Finding the layers of a transformers model that a PEFT adapter may target."""

from __future__ import annotations

from dataclasses import replace

from torch import nn
from transformers.pytorch_utils import Conv1D

from loramux.lora.site import LoRASite, SiteKind
from loramux.models.backbone import Backbone


def find_sites(model: nn.Module) -> dict[str, LoRASite]:
    """Return every layer PEFT can wrap with a low-rank pair, by dotted path.

    The walk and the kinds are those of PEFT's ``named_modules`` loop and ``dispatch_default``:
    ``nn.Embedding`` (positions too), ``nn.Linear`` and transformers' ``Conv1D``, with their
    subclasses. The projection inside ``nn.MultiheadAttention`` is left out: that module reads the
    projection's weight without ever calling it, so that an adapter there would have no effect.
    A ``Backbone``'s layers have a second name, which adapters of the bare decoder write.
    """
    prefix = f"{model.prefix}." if isinstance(model, Backbone) else None
    output = _output_embedding(model)
    attention = tuple(
        f"{name}." for name, module in model.named_modules() if _is_fused_attention(module)
    )
    sites: dict[str, LoRASite] = {}
    for name, module in model.named_modules():
        if name and not name.startswith(attention):
            site = _site(name, module, is_output=module is output)
            if site is not None:
                bare_name = None if prefix is None else name.removeprefix(prefix)
                sites[name] = replace(site, bare_name=bare_name)
    return sites


def _site(name: str, module: nn.Module, *, is_output: bool) -> LoRASite | None:
    if isinstance(module, nn.Embedding):
        width = module.embedding_dim
        return LoRASite(name, SiteKind.EMBEDDING, module.num_embeddings, width, is_output)
    if isinstance(module, nn.Linear):
        return LoRASite(name, SiteKind.LINEAR, module.in_features, module.out_features, is_output)
    if isinstance(module, Conv1D):
        in_features, out_features = module.weight.shape
        return LoRASite(name, SiteKind.CONV1D, in_features, out_features, is_output)
    return None


def _is_fused_attention(module: nn.Module) -> bool:
    return isinstance(module, nn.MultiheadAttention)


def _output_embedding(model: nn.Module) -> nn.Module | None:
    get_output_embeddings = getattr(model, "get_output_embeddings", None)
    return None if get_output_embeddings is None else get_output_embeddings()
