"""Gated activations; a row is cut into several programs, so that one row fills many processors."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from loramux_kernels.blocks.layout import Activation
from loramux_kernels.jit import device_function, kernel
from loramux_kernels.overlap import let_next_begin, overlapping, wait_for_kernel_ahead
from loramux_kernels.triton_blocks.checks import require_contiguous

COLUMNS = 1024
"""Of one program: 16 bytes of gates a thread, in 16-bit types."""
NUM_WARPS = 4
HALF_ROOT = tl.constexpr(math.sqrt(0.5))
TANH_FACTOR = tl.constexpr(2 * math.sqrt(2 / math.pi))
CUBE_FACTOR = tl.constexpr(0.044715)


def gated_activation(gate_up: Tensor, kind: Activation) -> Tensor:
    """``[rows, 2 * width]`` to ``[rows, width]``; see ``loramux_kernels.blocks.gated_activation``.

    Raises:
        ValueError: the tensor has gaps.
    """
    require_contiguous(gate_up=gate_up)
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty((rows, width), dtype=gate_up.dtype, device=gate_up.device)
    columns = min(COLUMNS, triton.next_power_of_2(width))
    programs = rows * triton.cdiv(width, columns)
    _activate[(programs,)](
        out,
        gate_up,
        WIDTH=width,
        COLUMNS=columns,
        KIND=kind,
        num_warps=NUM_WARPS,
        **overlapping(gate_up.device),
    )
    return out


@kernel()
def _activate(
    out: tl.tensor,
    gate_up: tl.tensor,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    KIND: tl.constexpr,
    OVERLAP: tl.constexpr,
) -> None:
    PROGRAMS: tl.constexpr = triton.cdiv(WIDTH, COLUMNS)
    row = (tl.program_id(0) // PROGRAMS).to(tl.int64)
    column = tl.program_id(0) % PROGRAMS * COLUMNS + tl.arange(0, COLUMNS)
    exists = column < WIDTH
    wait_for_kernel_ahead(OVERLAP)
    let_next_begin(OVERLAP)
    source = gate_up + row * (2 * WIDTH) + column
    gate = tl.load(source, mask=exists, other=0.0)
    up = tl.load(source + WIDTH, mask=exists, other=0.0)
    tl.store(out + row * WIDTH + column, gated(gate, up, KIND), mask=exists)


@device_function
def gated(gate: tl.tensor, up: tl.tensor, KIND: tl.constexpr) -> tl.tensor:
    """Activated gates times the rest, rounded in between as transformers' two operations are."""
    active = _activated(gate.to(tl.float32), KIND).to(gate.dtype)
    return (active.to(tl.float32) * up.to(tl.float32)).to(gate.dtype)


@device_function
def _activated(x: tl.tensor, KIND: tl.constexpr) -> tl.tensor:
    if KIND == "gelu":
        return 0.5 * x * (1.0 + tl.erf(x * HALF_ROOT))
    elif KIND == "gelu_tanh":
        # 0.5 (1 + tanh u) = 1 / (1 + e^-2u), which needs no tanh and is right for all u.
        return x / (1.0 + tl.exp((x + x * x * x * CUBE_FACTOR) * -TANH_FACTOR))
    else:
        tl.static_assert(KIND == "silu")
        return x / (1.0 + tl.exp(-x))
