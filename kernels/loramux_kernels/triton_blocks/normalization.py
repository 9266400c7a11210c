"""Root mean square norms of whole rows, one program a row."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from loramux_kernels.blocks.layout import RMSNorm
from loramux_kernels.jit import device_function, kernel
from loramux_kernels.overlap import let_next_begin, overlapping, wait_for_kernel_ahead
from loramux_kernels.triton_blocks.checks import require_contiguous, require_shape

VALUES_PER_THREAD = 16
MAX_WARPS = 16


def rms_norm(x: Tensor, norm: RMSNorm) -> Tensor:
    """``[rows, width]`` normalized by row; see ``loramux_kernels.blocks.rms_norm``.

    Raises:
        ValueError: a tensor has gaps or another shape.
    """
    return _launch(x, None, norm)


def add_rms_norm_(x: Tensor, residual: Tensor, norm: RMSNorm) -> Tensor:
    """Add ``x`` to ``residual`` in place and return the sum normalized by row.

    See ``loramux_kernels.blocks.add_rms_norm_``.

    Raises:
        ValueError: a tensor has gaps or another shape.
    """
    require_contiguous(residual=residual)
    require_shape("residual", residual, x.shape)
    return _launch(x, residual, norm)


def _launch(x: Tensor, residual: Tensor | None, norm: RMSNorm) -> Tensor:
    rows, width = x.shape
    require_contiguous(x=x, weight=norm.weight)
    require_shape("weight", norm.weight, (width,))
    out = torch.empty_like(x)
    block = triton.next_power_of_2(width)
    _normalize_row[(rows,)](
        out,
        x,
        residual,
        norm.weight,
        norm.eps,
        WIDTH=width,
        BLOCK=block,
        PLUS_ONE=norm.plus_one,
        num_warps=normalization_warps(block),
        **overlapping(x.device),
    )
    return out


def normalization_warps(block: int) -> int:
    """Warps for a row of so many values."""
    return max(1, min(MAX_WARPS, block // (32 * VALUES_PER_THREAD)))


@kernel()
def _normalize_row(  # noqa: PLR0917
    out: tl.tensor,
    x: tl.tensor,
    residual: tl.tensor,
    weight: tl.tensor,
    eps: tl.tensor,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    PLUS_ONE: tl.constexpr,
    OVERLAP: tl.constexpr,
) -> None:
    column = tl.arange(0, BLOCK)
    exists = column < WIDTH
    place = tl.program_id(0).to(tl.int64) * WIDTH + column
    wait_for_kernel_ahead(OVERLAP)
    let_next_begin(OVERLAP)
    values = tl.load(x + place, mask=exists, other=0.0)
    # Loaded before the sum is known, so that the row does not wait twice for memory.
    gain = tl.load(weight + column, mask=exists, other=0.0)
    if residual is not None:
        before = tl.load(residual + place, mask=exists, other=0.0)
        values = rounded_sum(before, values)
        tl.store(residual + place, values, mask=exists)
    inverse = inverse_root(tl.sum(squares(values), 0), eps, WIDTH)
    tl.store(out + place, normalized(values, gain, inverse, PLUS_ONE), mask=exists)


@device_function
def rounded_sum(before: tl.tensor, values: tl.tensor) -> tl.tensor:
    return (before.to(tl.float32) + values.to(tl.float32)).to(before.dtype)


@device_function
def squares(values: tl.tensor) -> tl.tensor:
    """In float32."""
    wide = values.to(tl.float32)
    return wide * wide


@device_function
def inverse_root(total: tl.tensor, eps: tl.tensor, COUNT: tl.constexpr) -> tl.tensor:
    """One over the root mean square, from the sum of ``COUNT`` squares."""
    return tl.rsqrt(total / COUNT + eps)


@device_function
def normalized(
    values: tl.tensor, gain: tl.tensor, inverse: tl.tensor, PLUS_ONE: tl.constexpr
) -> tl.tensor:
    """Values times their inverse root and the weight, rounded as ``RMSNorm`` says."""
    wide = values.to(tl.float32) * inverse
    if PLUS_ONE:
        wide *= 1.0 + gain.to(tl.float32)
    else:
        wide = wide.to(values.dtype).to(tl.float32) * gain.to(tl.float32)
    return wide.to(values.dtype)
