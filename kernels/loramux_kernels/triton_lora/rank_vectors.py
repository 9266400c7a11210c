"""When the rank vectors of a product's rows are computed: beside it, ahead of it, or behind it.

Both read the same rows and neither waits for the other. A product of few rows leaves
multiprocessors room for the programs of shrink, which spend their time waiting for memory. A long
product leaves none, but between it and the kernel that reads its rows nothing should come that
drives them out of the GPU's cache: there shrink runs ahead, on rows that have just been written.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from loramux_kernels.triton_lora.prefill import is_dense
from loramux_kernels.triton_lora.projection import PackedProjection
from loramux_kernels.triton_lora.work_list import LoRAWork

BESIDE_ROWS = 64
"""At most. With 256 rows beside the product a step became 2 % longer."""
AHEAD_ROWS = 1025
"""At least; in between shrink is behind the product, and the kernel after it begins early."""

Order = Literal["beside", "ahead", "behind"]


def order(work: LoRAWork, num_rows: int) -> Order:
    """By what is fixed for a captured step, never by what the work list is filled with."""
    if num_rows <= BESIDE_ROWS and work.branch is not None:
        return "beside"
    return "ahead" if num_rows >= AHEAD_ROWS else "behind"


def begin_rank_vectors(x: Tensor, projection: PackedProjection, work: LoRAWork) -> None:
    """Before the base product of ``x``: start on its rank vectors, where that pays."""
    work.begun = None  # what a step that failed may have left
    chosen = order(work, len(x))
    if chosen == "behind" or is_dense(work.single, work.table):
        return
    from loramux_kernels.triton_lora.shrink import shrink

    if chosen == "ahead" or work.branch is None:
        shrink(x, projection, work)
    else:
        with work.branch.leave():
            shrink(x, projection, work, is_branch=True)
    work.begun = projection


def rank_vectors(x: Tensor, projection: PackedProjection, work: LoRAWork) -> None:
    """Have them in ``work.partials`` for the kernel that is launched next."""
    begun, work.begun = work.begun, None
    if begun is not projection:
        from loramux_kernels.triton_lora.shrink import shrink

        shrink(x, projection, work)
    elif work.branch is not None and order(work, len(x)) == "beside":
        work.branch.join()
