"""By which of their names an adapter calls the base model's layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from loramux.lora.checkpoint.pairing import BaseParameter
from loramux.lora.checkpoint.tensor_names import parse_tensor_name
from loramux.lora.site import LoRASite


def as_written(sites: Mapping[str, LoRASite], tensors: Iterable[str]) -> Mapping[str, LoRASite]:
    """The sites by the names that an adapter's tensors have for them.

    Those are the bare ones where no tensor knows a whole one and some tensor a bare one. PEFT's
    rules are about names, so that an adapter has to be read by those that it was trained with.
    """
    bare = {site.bare_name: site for site in sites.values() if site.bare_name is not None}
    if not bare:
        return sites
    parsed = [name for tensor in tensors if (name := parse_tensor_name(tensor)) is not None]
    if any(name.site in sites for name in parsed):
        return sites
    return bare if any(name.site in bare for name in parsed) else sites


def parameters_as_written(
    parameter: BaseParameter, written: Mapping[str, LoRASite]
) -> BaseParameter:
    """``parameter``, asked by the names of :func:`as_written`."""

    def find(name: str) -> torch.Tensor:
        layer, _, kind = name.rpartition(".")
        return parameter(f"{written[layer].name}.{kind}" if layer in written else name)

    return find
