"""Every kind of launch with the tiles that a GPU is given, on tensors of a CPU that nobody fills.

For rehearsals alone: what is launched reads whatever lies there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from loramux.lora.device.kernel_updates import MAX_FUSED_RANK, KernelUpdates
from loramux.lora.site import LoRASite, PackedSites, SiteKind
from loramux_kernels.blocks import HeadLayout, RMSNorm, Rotation
from loramux_kernels.gpu import HOPPER, gpu_of
from loramux_kernels.paged_attention import AttentionOptions, LayerCache
from loramux_kernels.triton_lora import AdapterTable

CPU = torch.device("cpu")
LLAMA = {"qkv": (4096, [4096, 1024, 1024]), "o": (4096, [4096]), "gate_up": (4096, [14336] * 2)}
LLAMA |= {"down": (14336, [4096])}
STEPS = (64, 272, 2048, 8192)
"""Rows: a decode, a prompt beside decodes, and prompts with shrink in splits and without."""


@dataclass(frozen=True)
class Heads:
    """Attention of one layer."""

    dim: int
    heads: int
    kv_heads: int
    dtype: torch.dtype = torch.bfloat16
    window: int | None = None
    softcap: float | None = None


ATTENTION = (
    Heads(64, 64, 8),
    Heads(96, 32, 32),
    Heads(128, 32, 8),
    Heads(128, 28, 4, window=4096),
    Heads(256, 16, 8),
    Heads(256, 8, 4, window=1024, softcap=50.0),
    Heads(512, 8, 2),
    Heads(128, 48, 1),
    Heads(64, 71, 1),
    Heads(64, 32, 8, torch.float32),
    Heads(128, 32, 8, torch.float32),
    Heads(256, 8, 4, torch.float32),
)
"""The last ones are of Gemma 4, of multi-query models such as StarCoder and Falcon, of float32."""


def launch_attention(case: Heads) -> None:
    """A decode and a prompt of 40 tokens."""
    from loramux_kernels.triton_attention import Metadata, triton_paged_attention, write_kv

    shape = (8, 16, case.kv_heads, case.dim)
    cache = LayerCache(torch.empty(shape, dtype=case.dtype), torch.empty(shape, dtype=case.dtype))
    slots = torch.zeros(41, dtype=torch.int32)
    new = torch.empty(41, case.kv_heads, case.dim, dtype=case.dtype)
    write_kv(cache, slots, new, new)
    metadata = Metadata.build(slots, [[0], [1, 2, 3]], [9, 40], [1, 40], 16)
    query = torch.empty(41, case.heads, case.dim, dtype=case.dtype)
    options = AttentionOptions(case.dim**-0.5, case.window, case.softcap)
    triton_paged_attention(query, cache, metadata, options)


def updates_of_a_layer(dtype: torch.dtype, max_rank: int) -> KernelUpdates:
    """Of a Llama's, over an arena without adapters."""
    projections = [
        PackedSites(name, tuple(LoRASite(name, SiteKind.LINEAR, width, out) for out in widths))
        for name, (width, widths) in LLAMA.items()
    ]
    sites = sum(len(projection.sites) for projection in projections)
    table = AdapterTable(torch.empty(1 << 16, dtype=dtype), 4, sites)
    return KernelUpdates(projections, table, max(STEPS), STEPS[0], max_rank)


def launch_lora(dtype: torch.dtype, max_rank: int, steps: Sequence[int] = STEPS) -> None:
    """Each product of a layer with its updates, and the block that reads it, by rows."""
    updates = updates_of_a_layer(dtype, max_rank)
    for rows in steps:
        updates.fill([], rows, is_decode=rows == STEPS[0])
        for index, (width, widths) in enumerate(LLAMA.values()):
            x = torch.empty(rows, width, dtype=dtype)
            y = torch.empty(rows, sum(widths), dtype=dtype)
            updates.add_(index, y, x)
            if max_rank <= MAX_FUSED_RANK:
                _read(updates, index, y, x)


def _read(updates: KernelUpdates, index: int, y: Tensor, x: Tensor) -> None:
    """What comes behind the product in a Llama's layer."""
    if index == 0:
        updates.rotate_and_store_(index, y, x, _rotation(len(x), x.dtype))
    elif index == 2:
        updates.activate(index, y, x, "silu")
    else:
        norm = RMSNorm(torch.empty(y.shape[1], dtype=y.dtype), 1e-5)
        updates.add_rms_norm_(index, y, x, torch.empty_like(y), norm)


def launch_blocks(dtype: torch.dtype) -> None:
    """Norm, activation, and what places an adapter."""
    from loramux_kernels.triton_blocks import add_rms_norm_, gated_activation, rms_norm
    from loramux_kernels.triton_lora.place import place_by_kernel_

    x, norm = torch.empty(4, 4096, dtype=dtype), RMSNorm(torch.empty(4096, dtype=dtype), 1e-5)
    rms_norm(x, norm)
    add_rms_norm_(x, x.clone(), norm)
    gated_activation(x, "gelu_tanh")
    records = torch.zeros(1, 5, dtype=torch.int64)
    place_by_kernel_(torch.empty(64, dtype=dtype), torch.empty(64), records)


def launch_products() -> None:
    """Each tiling, where the GPU is given any."""
    from loramux_kernels.triton_products import streamed_linear
    from loramux_kernels.tuned.products import BY_ROWS

    if gpu_of(CPU).capability == HOPPER:
        for tiles in (tiles for choices in BY_ROWS.values() for tiles in choices):
            x = torch.empty(tiles.rows, 4096, dtype=torch.bfloat16)
            streamed_linear(x, torch.empty(6144, 4096, dtype=torch.bfloat16), None, tiles)


def launch_everything() -> None:
    for dtype in (torch.bfloat16, torch.float32):
        launch_blocks(dtype)
        for max_rank in (16, 64):
            launch_lora(dtype, max_rank)
    for case in ATTENTION:
        launch_attention(case)
    launch_products()


def _rotation(rows: int, dtype: torch.dtype) -> Rotation:
    layout = HeadLayout(32, 8, 128, 128, None, None)
    cache = torch.empty(4, 16, 8, 128, dtype=dtype)
    table, numbers = torch.empty(64, 128), torch.zeros(rows, dtype=torch.int32)
    return Rotation(numbers, table, table, layout, LayerCache(cache, cache.clone()), numbers)
