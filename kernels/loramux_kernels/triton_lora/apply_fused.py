"""Blocks that read a packed product and add its LoRA updates, by whichever path suits the step.

Each is the block of ``loramux_kernels.blocks`` after ``apply_lora_``, without writing the updated
product: it says nothing about the rows beyond those that the work list was filled for.
"""

from __future__ import annotations

from torch import Tensor

from loramux_kernels.blocks import Activation, RMSNorm, Rotation, add_rms_norm_, gated_activation
from loramux_kernels.triton_lora.apply import apply_lora_, check_product
from loramux_kernels.triton_lora.prefill import is_dense
from loramux_kernels.triton_lora.projection import PackedProjection
from loramux_kernels.triton_lora.rank_vectors import rank_vectors
from loramux_kernels.triton_lora.work_list import LoRAWork


def activate_with_lora(
    gate_up: Tensor, x: Tensor, projection: PackedProjection, work: LoRAWork, kind: Activation
) -> Tensor:
    """``gated_activation`` of a product and its updates.

    Shapes:
        gate_up: ``[rows, 2 * width]``; x: ``[rows, in_features]``; returns: ``[rows, width]``.

    Raises:
        ValueError: x or gate_up has another dtype than the arena or another width than the
            projection.
    """
    if not _is_fused(work, len(x)):
        apply_lora_(gate_up, x, projection, work)
        return gated_activation(gate_up, kind)
    check_product(gate_up, x, projection, work)
    from loramux_kernels.triton_lora.fused.activation import activate_updated

    rank_vectors(x, projection, work)
    return activate_updated(gate_up, projection, work, kind)


def add_rms_norm_with_lora_(
    y: Tensor,
    x: Tensor,
    residual: Tensor,
    projection: PackedProjection,
    work: LoRAWork,
    norm: RMSNorm,
) -> Tensor:
    """``add_rms_norm_`` of a product and its updates.

    Two launches, or three where the tiles have no norm that adds updates.

    Shapes:
        y, residual, returns: ``[rows, width]``; x: ``[rows, in_features]``.

    Raises:
        ValueError: x or y has another dtype than the arena or another width than the projection.
    """
    has_norm = work.shape.for_rows(len(x)).fused.normalization is not None
    if not (has_norm and _is_fused(work, len(x))):
        apply_lora_(y, x, projection, work)
        return add_rms_norm_(y, residual, norm)
    check_product(y, x, projection, work)
    from loramux_kernels.triton_lora.fused.normalization import add_rms_norm_updated_

    rank_vectors(x, projection, work)
    return add_rms_norm_updated_(y, residual, projection, work, norm)


def _is_fused(work: LoRAWork, num_rows: int) -> bool:
    """Whether the tiles have blocks for the largest rank that the work list can name.

    A step that one adapter owns, and that plain products compute, has no rank vectors for them.
    """
    max_rank = work.shape.for_rows(num_rows).fused.max_rank
    has_blocks = max_rank is None or work.max_rank <= max_rank
    return has_blocks and not is_dense(work.single, work.table)


def rotate_and_store_with_lora_(
    qkv: Tensor,
    x: Tensor,
    projection: PackedProjection,
    work: LoRAWork,
    rotation: Rotation,
) -> Tensor:
    """``rotate_and_store_`` of a product and its updates.

    Shapes:
        qkv: ``[rows, (num_heads + 2 * num_kv_heads) * head_dim]``; x: ``[rows, in_features]``;
            returns: ``[rows, num_heads, head_dim]``.

    Raises:
        ValueError: x or qkv has another dtype than the arena or another width than the projection.
    """
    if not _is_fused(work, len(x)):
        apply_lora_(qkv, x, projection, work)
        return rotation(qkv)
    check_product(qkv, x, projection, work)
    from loramux_kernels.triton_lora.fused.rotation import rotate_and_store_updated_

    rank_vectors(x, projection, work)
    return rotate_and_store_updated_(qkv, projection, work, rotation)
