"""Weights of one product in one tensor, which the transformers modules go on using."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def pack_parameters(parameters: Sequence[Tensor]) -> Tensor:
    """Join parameters along the rows; each of them becomes a view of its rows of the result.

    The old storages are given up, so that nothing is held twice once this returns. The parameter
    objects stay: whoever holds one sees the same values. A single parameter is left as it is.
    """
    if len(parameters) == 1:
        return parameters[0].detach()
    packed = torch.cat([parameter.detach() for parameter in parameters])
    rows = [len(parameter) for parameter in parameters]
    for parameter, view in zip(parameters, torch.split(packed, rows), strict=True):
        parameter.data = view
    return packed


def return_freed_memory(device: torch.device) -> None:
    """Give storages that were just freed back to the device.

    torch's allocator would keep them: they are too small for the next packed tensor, and would add
    up to the weights once more.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
