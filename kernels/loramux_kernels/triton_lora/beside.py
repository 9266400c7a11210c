"""Shrink beside the product of the base weights: both read the same rows and neither waits.

A product of few rows leaves multiprocessors room for the programs of shrink, which spend their
time waiting for memory. Products of more rows do not: with 256 a step became 2 % longer.
"""

from __future__ import annotations

from torch import Tensor

from loramux_kernels.triton_lora.projection import PackedProjection
from loramux_kernels.triton_lora.work_list import LoRAWork

MAX_ROWS = 64


def begin_rank_vectors(x: Tensor, projection: PackedProjection, work: LoRAWork) -> None:
    """Before the base product of ``x``: start on its rank vectors, where that pays.

    By what is fixed for a captured step, never by what the work list is filled with.
    """
    if work.branch is None or len(x) > MAX_ROWS:
        return
    from loramux_kernels.triton_lora.shrink import shrink

    with work.branch.leave((projection, work)):
        shrink(x, projection, work, is_branch=True)


def rank_vectors(x: Tensor, projection: PackedProjection, work: LoRAWork) -> None:
    """Have them in ``work.partials`` for the kernel that is launched next."""
    from loramux_kernels.triton_lora.shrink import shrink

    if work.branch is None or not work.branch.join((projection, work)):
        shrink(x, projection, work)
