"""LoRA kernels in Triton, and the layout of device memory they read.

Triton itself is imported when a kernel first runs.
"""

from __future__ import annotations

from loramux_kernels.triton_lora.adapter_table import AdapterTable, PairPlacement
from loramux_kernels.triton_lora.apply import apply_lora_
from loramux_kernels.triton_lora.apply_fused import (
    activate_with_lora,
    add_rms_norm_with_lora_,
    rotate_and_store_with_lora_,
)
from loramux_kernels.triton_lora.arena import GRANULE, PAGE_BYTES, Allocation, Arena
from loramux_kernels.triton_lora.projection import PackedProjection
from loramux_kernels.triton_lora.rank_vectors import begin_rank_vectors
from loramux_kernels.triton_lora.work_list import LoRAWork
from loramux_kernels.tuned.lora import DECODE, PREFILL
from loramux_kernels.tuned.lora_shapes import LoRATiles

__all__ = [
    "DECODE",
    "GRANULE",
    "PAGE_BYTES",
    "PREFILL",
    "AdapterTable",
    "Allocation",
    "Arena",
    "LoRATiles",
    "LoRAWork",
    "PackedProjection",
    "PairPlacement",
    "activate_with_lora",
    "add_rms_norm_with_lora_",
    "apply_lora_",
    "begin_rank_vectors",
    "rotate_and_store_with_lora_",
]
