"""Paged attention for NVIDIA GPUs, in Triton; import it only where Triton is installed."""

from loramux_kernels.triton_attention.attention import triton_paged_attention
from loramux_kernels.triton_attention.kv_write import write_kv
from loramux_kernels.triton_attention.metadata import Metadata
from loramux_kernels.tuned.attention_shapes import DecodeTiles, PrefillTiles, Tiles

__all__ = [
    "DecodeTiles",
    "Metadata",
    "PrefillTiles",
    "Tiles",
    "triton_paged_attention",
    "write_kv",
]
