"""The blocks in torch: the path of CPUs and the reference of the kernels.

In float32 they are bit for bit what transformers computes. In narrower types they round where
transformers rounds, but for the rotation: its tables stay float32 and it rounds once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from loramux_kernels.blocks.layout import Activation, HeadLayout, RMSNorm
from loramux_kernels.paged_attention import LayerCache

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
}


def rms_norm(x: Tensor, norm: RMSNorm) -> Tensor:
    """Normalize the last dimension; see ``loramux_kernels.blocks.rms_norm``."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + norm.eps)
    if norm.plus_one:
        return (wide * (1.0 + norm.weight.float())).to(x.dtype)
    return norm.weight * wide.to(x.dtype)


def add_rms_norm_(x: Tensor, residual: Tensor, norm: RMSNorm) -> Tensor:
    """Add to the residual and normalize it; see ``loramux_kernels.blocks.add_rms_norm_``."""
    return rms_norm(residual.add_(x), norm)


def rotate_and_store_(
    qkv: Tensor,
    positions: Tensor,
    cos: Tensor,
    sin: Tensor,
    layout: HeadLayout,
    cache: LayerCache,
    slots: Tensor,
) -> Tensor:
    """Rotate, store, return queries; see ``loramux_kernels.blocks.rotate_and_store_``."""
    counts = [layout.num_heads, layout.num_kv_heads, layout.num_kv_heads]
    heads = qkv.view(qkv.shape[0], sum(counts), layout.head_dim)
    queries, keys, values = torch.split(heads, counts, dim=1)
    if layout.q_norm is not None:
        queries = rms_norm(queries, layout.q_norm)
    if layout.k_norm is not None:
        keys = rms_norm(keys, layout.k_norm)
    cos, sin = cos[positions][:, None], sin[positions][:, None]
    stored = slots >= 0
    cache.write(slots[stored], _rotated(keys, cos, sin)[stored], values[stored])
    return _rotated(queries, cos, sin)


def gated_activation(gate_up: Tensor, kind: Activation) -> Tensor:
    """Activate gates, multiply; see ``loramux_kernels.blocks.gated_activation``."""
    gate, up = gate_up.chunk(2, dim=-1)
    return ACTIVATIONS[kind](gate) * up


def _rotated(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding (Su et al., arXiv:2104.09864) of ``[rows, heads, dim]``, by halves.

    ``cos`` and ``sin`` are ``[rows, 1, rotary_dim]``.
    """
    rotary_dim = cos.shape[-1]
    part = heads[..., :rotary_dim].float()
    first, second = part.chunk(2, dim=-1)
    part = part * cos + torch.cat([-second, first], dim=-1) * sin
    return torch.cat([part.to(heads.dtype), heads[..., rotary_dim:]], dim=-1)
