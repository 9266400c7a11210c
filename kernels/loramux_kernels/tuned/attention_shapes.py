"""Shapes of the tiles that attention computes, and how many programs share the work."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from loramux_kernels.multiprocessors import num_multiprocessors

_REGISTERS = 65536
"""Of a multiprocessor."""


@dataclass(frozen=True)
class DecodeTiles:
    """Tokens per tile, and among how many programs the work of a batch is shared.

    ``programs_per_processor`` is what fits the shared memory of a multiprocessor, so that all run
    at once. ``min_tokens`` bounds a program's share from below.
    """

    keys: int = 32
    num_warps: int = 2
    num_stages: int = 4
    programs_per_processor: int = 4
    min_tokens: int = 64

    def num_programs(self, num_kv_heads: int, device: torch.device) -> int:
        """Programs for each KV head."""
        programs = self.programs_per_processor * num_multiprocessors(device)
        return max(1, programs // num_kv_heads)

    @property
    def registers(self) -> int:
        """Of a thread, such that all programs of a multiprocessor fit."""
        fitting = _REGISTERS // (self.programs_per_processor * self.num_warps * 32)
        return min(255, fitting // 8 * 8)

    def joined_at_once(self, group: int, value_dim: int) -> int:
        """Chunks of a KV head's ``group`` of query heads that take half of the registers."""
        values = next_power_of_2(group) * next_power_of_2(value_dim)
        fitting = _REGISTERS // (2 * self.programs_per_processor * values)
        return 1 << max(0, fitting.bit_length() - 1)


@dataclass(frozen=True)
class PrefillTiles:
    """``rows`` are queries times query heads of a KV head, ``keys`` are tokens.

    ``programs_per_processor`` is how many run at once: one multiplies while another waits.
    """

    rows: int = 64
    keys: int = 64
    num_warps: int = 4
    num_stages: int = 3
    programs_per_processor: int = 2


@dataclass(frozen=True)
class Tiles:
    """Both, for one layer."""

    decode: DecodeTiles = field(default_factory=DecodeTiles)
    prefill: PrefillTiles = field(default_factory=PrefillTiles)


def next_power_of_2(size: int) -> int:
    """Triton's tensors have such sizes."""
    return 1 << (size - 1).bit_length()
