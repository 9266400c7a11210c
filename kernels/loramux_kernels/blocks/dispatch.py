"""The blocks, by Triton where that runs and by torch elsewhere."""

from __future__ import annotations

from torch import Tensor

from loramux_kernels.blocks import reference
from loramux_kernels.blocks.layout import Activation, HeadLayout, RMSNorm
from loramux_kernels.gpu import runs_kernels
from loramux_kernels.paged_attention import LayerCache


def rms_norm(x: Tensor, norm: RMSNorm) -> Tensor:
    """Normalize each row.

    Shapes:
        x, returns: ``[rows, width]``, contiguous, of one dtype.
    """
    if runs_kernels(x.device):
        from loramux_kernels import triton_blocks

        return triton_blocks.rms_norm(x, norm)
    return reference.rms_norm(x, norm)


def add_rms_norm_(x: Tensor, residual: Tensor, norm: RMSNorm) -> Tensor:
    """Add ``x`` to ``residual`` in place and return the sum, as rounded there, normalized.

    Shapes:
        x, residual, returns: ``[rows, width]``, contiguous, of one dtype.
    """
    if runs_kernels(x.device):
        from loramux_kernels import triton_blocks

        return triton_blocks.add_rms_norm_(x, residual, norm)
    return reference.add_rms_norm_(x, residual, norm)


def rotate_and_store_(
    qkv: Tensor,
    positions: Tensor,
    cos: Tensor,
    sin: Tensor,
    layout: HeadLayout,
    cache: LayerCache,
    slots: Tensor,
) -> Tensor:
    """Queries rotated to their positions; rotated keys, and values, go to the cache.

    Queries and keys are normalized before if the layout says so. A slot of -1 stores nothing
    (padding of CUDA graphs), but its row's position must be one of the table.

    Shapes:
        qkv: ``[rows, (num_heads + 2 * num_kv_heads) * head_dim]``, contiguous.
        positions, slots: ``[rows]``, integers; a slot is block times block size plus offset.
        cos, sin: ``[max_positions, rotary_dim]``, float32, contiguous.
        returns: ``[rows, num_heads, head_dim]``, contiguous.
    """
    if runs_kernels(qkv.device):
        from loramux_kernels import triton_blocks

        return triton_blocks.rotate_and_store_(qkv, positions, cos, sin, layout, cache, slots)
    return reference.rotate_and_store_(qkv, positions, cos, sin, layout, cache, slots)


def gated_activation(gate_up: Tensor, kind: Activation) -> Tensor:
    """Activated gates times the rest, as of SwiGLU (Shazeer, arXiv:2002.05202).

    Shapes:
        gate_up: ``[rows, 2 * width]``, contiguous: a row's gates, then what they multiply.
        returns: ``[rows, width]``.
    """
    if runs_kernels(gate_up.device):
        from loramux_kernels import triton_blocks

        return triton_blocks.gated_activation(gate_up, kind)
    return reference.gated_activation(gate_up, kind)
