"""How many programs a GPU runs side by side."""

from __future__ import annotations

from functools import cache

import torch


@cache
def num_multiprocessors(device: torch.device) -> int:
    """Multiprocessors of a GPU; 1 for the CPU, where Triton interprets."""
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count
