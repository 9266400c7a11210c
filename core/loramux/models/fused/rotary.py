"""Rotary factors of every position, computed once by the model's own module."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from loramux.models.fused.structure import require


@dataclass(frozen=True, eq=False)
class RotaryTable:
    """Cosines and sines, ``[max_positions, rotary_dim]`` in float32."""

    cos: Tensor
    sin: Tensor


def rotary_table(
    rotary: nn.Module, max_positions: int, device: torch.device, layer_type: str | None = None
) -> RotaryTable:
    """Ask a transformers rotary module for positions 0 to ``max_positions - 1``.

    Args:
        rotary: the model's ``rotary_emb``.
        max_positions: positions of the longest sequence.
        device: where the tables are to lie.
        layer_type: kind of layer, for a module that holds factors of several.

    Raises:
        UnfusableError: the factors of a position depend on how long its sequence is
            (``longrope`` and ``dynamic`` beyond the original length), so that no table holds them.
    """
    positions = torch.arange(max_positions, device=device)
    # A sequence of two tokens, then the longest: the last call leaves the module as before others.
    longest = _factors(rotary, positions, layer_type)
    shortest = _factors(rotary, positions[:2], layer_type)
    same = torch.equal(longest.cos[:2], shortest.cos) and torch.equal(longest.sin[:2], shortest.sin)
    require(same, f"its rotary factors change within {max_positions} positions")
    return longest


def rotary_tables(
    rotary: nn.Module,
    max_positions: int,
    device: torch.device,
    layer_types: Iterable[str | None],
) -> dict[str | None, RotaryTable]:
    """One table for each kind of layer; see :func:`rotary_table`."""
    return {
        layer_type: rotary_table(rotary, max_positions, device, layer_type)
        for layer_type in set(layer_types)
    }


def _factors(rotary: nn.Module, positions: Tensor, layer_type: str | None) -> RotaryTable:
    in_float32 = torch.empty(0, dtype=torch.float32, device=positions.device)
    kind = () if layer_type is None else (layer_type,)
    cos, sin = rotary(in_float32, positions[None], *kind)
    return RotaryTable(cos[0].contiguous(), sin[0].contiguous())
