"""Residual sum and norm of a packed product after its updates."""

from __future__ import annotations

from torch import Tensor

from loramux_kernels.blocks.layout import RMSNorm
from loramux_kernels.triton_blocks.checks import require_contiguous, require_shape
from loramux_kernels.triton_lora.fused.paired_normalization import add_rms_norm_pairs_updated_
from loramux_kernels.triton_lora.fused.tiled_normalization import add_rms_norm_tiles_updated_
from loramux_kernels.triton_lora.projection import PackedProjection
from loramux_kernels.triton_lora.tiles import PairedNormalization, TiledNormalization
from loramux_kernels.triton_lora.work_list import LoRAWork


def add_rms_norm_updated_(
    y: Tensor, residual: Tensor, projection: PackedProjection, work: LoRAWork, norm: RMSNorm
) -> Tensor:
    """``add_rms_norm_`` of the product with the updates that ``shrink`` has prepared.

    Shapes:
        y: ``[rows, width]``, not written; residual, returns: the same.

    Raises:
        ValueError: a tensor has gaps or another shape, or the tiles have no such norm.
    """
    require_contiguous(y=y, residual=residual, weight=norm.weight)
    require_shape("residual", residual, y.shape)
    require_shape("weight", norm.weight, (y.shape[1],))
    shape = work.shape.for_rows(len(y)).fused.normalization
    if isinstance(shape, PairedNormalization):
        return add_rms_norm_pairs_updated_(y, residual, projection, work, norm, shape)
    if isinstance(shape, TiledNormalization):
        return add_rms_norm_tiles_updated_(y, residual, projection, work, norm, shape)
    raise ValueError("these tiles have no norm with updates: use apply_lora_ before the norm.")
