"""LoRA updates of a packed projection, by whichever path suits the step."""

from __future__ import annotations

from torch import Tensor

from loramux_kernels.triton_lora.prefill import add_dense_, is_dense
from loramux_kernels.triton_lora.projection import PackedProjection
from loramux_kernels.triton_lora.rank_vectors import rank_vectors
from loramux_kernels.triton_lora.work_list import LoRAWork


def apply_lora_(y: Tensor, x: Tensor, projection: PackedProjection, work: LoRAWork) -> None:
    """Add each row's own update to the output of a packed projection, in place.

    Two launches; plain matrix products where one adapter owns a long step and the work list's
    tiles allow that. Which rows run on which adapters is read from device memory, so that the
    launches, once captured, compute whatever the work list is filled with.

    Shapes:
        x: ``[num_rows, in_features]``; y: ``[num_rows, out_features]``, both contiguous by row.

    Raises:
        ValueError: x or y has another dtype than the arena or another width than the projection.
    """
    check_product(y, x, projection, work)
    if work.single is not None and is_dense(work.single, work.table):
        add_dense_(y, x, projection, work.table, work.single)
        return
    # Triton decides at import whether it interprets, and takes its time: only who computes pays.
    from loramux_kernels.triton_lora.expand import expand_

    rank_vectors(x, projection, work)
    expand_(y, projection, work)


def check_product(y: Tensor, x: Tensor, projection: PackedProjection, work: LoRAWork) -> None:
    """Refuse tensors of another layer.

    Raises:
        ValueError: x or y has another dtype than the arena or another width than the projection.
    """
    dtype = work.table.arena.dtype
    if x.dtype != dtype or y.dtype != dtype:
        raise ValueError(
            f"input is {x.dtype} and output {y.dtype}, but adapters lie in an arena of {dtype}: "
            "make the arena of the layers' dtype."
        )
    if (x.shape[1], y.shape[1]) != (projection.in_features, projection.out_features):
        raise ValueError(
            f"input and output are {x.shape[1]} and {y.shape[1]} wide, but the projection takes "
            f"{projection.in_features} and gives {projection.out_features}: pass its own tensors."
        )
