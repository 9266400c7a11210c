"""What the kernels of both products have in common."""

from __future__ import annotations

from functools import cache

import torch
import triton.language as tl

from loramux_kernels.jit import device_function


@cache
def num_multiprocessors(device: torch.device) -> int:
    """Multiprocessors of a GPU; 1 for the CPU, where Triton interprets."""
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


@cache
def can_overlap(device: torch.device) -> bool:
    """Whether a kernel may start before the one it depends on has ended."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


@device_function
def own_share(num_units: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """First and last unit of this program, so that all programs get equally many.

    Successive units mostly share their adapter, whose table entries then come from the cache.
    """
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    share = num_units // programs
    extra = num_units - share * programs
    start = program * share + tl.minimum(program, extra)
    return start, start + share + (program < extra).to(tl.int32)
