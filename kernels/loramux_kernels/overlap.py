"""Kernels that begin while the one ahead of them still runs: programmatic dependent launch.

What so disappears is the time between kernels, and what a kernel can prepare by itself. One rule
makes it right, and every kernel that is launched with ``overlapping`` keeps it:

    Every program waits for the kernel ahead, whichever way it takes, before it writes anything and
    before it reads anything but what was complete when the kernel ahead began. Only after that
    does it let the next kernel begin.

A kernel begins when every program of the one ahead has let it or has ended. By the rule they have
all waited then, so that all before the one ahead is complete: at most two kernels run at a time.
Before it waits a kernel may read what it knows was written two kernels ahead or earlier.

Kernels launched otherwise (cuBLAS, torch) begin when all before them has ended. The shrink of
LoRA updates lets the next kernel begin before it waits itself: the one behind it may read nothing
that a step writes before it waits.
"""

from __future__ import annotations

import torch
import triton.language as tl

from loramux_kernels.gpu import gpu_of
from loramux_kernels.jit import device_function


def overlapping(device: torch.device) -> dict[str, bool]:
    """Arguments of a launch; GPUs before Hopper start one kernel after the other."""
    if gpu_of(device).programmatic_launch:
        return {"OVERLAP": True, "launch_pdl": True}
    return {"OVERLAP": False}


@device_function
def wait_for_kernel_ahead(OVERLAP: tl.constexpr) -> None:
    """Until all kernels ahead have ended and what they wrote can be read."""
    if OVERLAP:
        tl.extra.cuda.gdc_wait()


@device_function
def let_next_begin(OVERLAP: tl.constexpr) -> None:
    """Allow the next kernel, once every program has come here or has ended."""
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()
