"""What the Triton kernels must know of a batch, in tensors on the device."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
import triton
from torch import Tensor

from loramux_kernels.overlap import overlapping
from loramux_kernels.triton_attention.plan import (
    CHUNK_FIELDS,
    TILE_FIELDS,
    plan_chunks,
    plan_tiles,
)
from loramux_kernels.tuned.attention_shapes import DecodeTiles

_NO_WINDOW = 2**31 - 1
_FEW_SEQUENCES = 64
"""Fewer are planned by the same kernel: one compilation for many sizes of captured steps."""


@dataclass(eq=False)
class ChunkPlan:
    """Work of the decode kernels; see ``plan_chunks``."""

    num_programs: int
    work: Tensor
    padding: Tensor
    arrivals: Tensor
    _was_used: bool = False

    def is_new(self) -> bool:
        """Whether nobody asked before: the kernel that plans may be the one directly ahead."""
        was_used, self._was_used = self._was_used, True
        return not was_used


@dataclass(frozen=True, eq=False)
class Metadata:
    """A flat batch: the new tokens of all sequences, one sequence after another.

    Make a new one for every forward pass, captured ones included (``dataclasses.replace`` makes
    one of the same tensors): what layers share is worked out on the device when the first of them
    asks, and kept. A captured pass has tensors of a fixed size: it is padded with sequences of one
    row, length 0 and slot -1, whose output is zero.
    """

    slots: Tensor
    """``[num_rows]``: where each token goes in the cache, or -1."""
    block_table: Tensor
    """``[num_sequences, max_blocks]`` int32; what lies beyond a sequence's length is not read."""
    lengths: Tensor
    """``[num_sequences]`` int32: tokens in the cache, new ones included."""
    query_start_loc: Tensor
    """``[num_sequences + 1]`` int32: the first row of each sequence, and the end."""
    block_size: int
    num_decodes: int
    """Sequences with one new token, or an upper bound; 0 launches no decode kernel."""
    num_prefills: int
    """Sequences with several new tokens, or an upper bound."""
    num_prefill_rows: int
    """Rows of those together, or an upper bound."""
    _chunk_plans: dict[tuple[int, int | None, DecodeTiles], ChunkPlan] = field(
        default_factory=dict, init=False
    )
    _tile_plans: dict[int, Tensor] = field(default_factory=dict, init=False)

    @classmethod
    def build(
        cls,
        slots: Tensor,
        block_ids: Sequence[Sequence[int]],
        lengths: Sequence[int],
        num_new_tokens: Sequence[int],
        block_size: int,
    ) -> Metadata:
        """From lists, one entry a sequence, to the device of ``slots`` in one copy."""
        count, width = len(lengths), max(map(len, block_ids))
        numbers = array("i")
        for ids in block_ids:
            numbers += array("i", ids)
            numbers.frombytes(bytes(numbers.itemsize * (width - len(ids))))
        numbers += array("i", lengths)
        numbers += array("i", accumulate(num_new_tokens, initial=0))
        host = torch.frombuffer(numbers, dtype=torch.int32)
        if slots.is_cuda:
            host = host.pin_memory()  # a copy from other memory would wait for all steps before
        on_device = torch.split(
            host.to(slots.device, non_blocking=True), [count * width, count, count + 1]
        )
        prefill_rows = [tokens for tokens in num_new_tokens if tokens > 1]
        return cls(
            slots,
            on_device[0].view(count, width),
            on_device[1],
            on_device[2],
            block_size,
            num_decodes=count - len(prefill_rows),
            num_prefills=len(prefill_rows),
            num_prefill_rows=sum(prefill_rows),
        )

    def chunk_plan(self, num_kv_heads: int, window: int | None, tiles: DecodeTiles) -> ChunkPlan:
        """Work of the decode kernels for layers with so many heads and that window."""
        key = (num_kv_heads, window, tiles)
        if key not in self._chunk_plans:
            self._chunk_plans[key] = self._plan_chunks(*key)
        return self._chunk_plans[key]

    def tile_plan(self, queries_per_tile: int) -> Tensor:
        """Work of the prefill kernel."""
        if queries_per_tile not in self._tile_plans:
            self._tile_plans[queries_per_tile] = self._plan_tiles(queries_per_tile)
        return self._tile_plans[queries_per_tile]

    def _plan_chunks(self, num_kv_heads: int, window: int | None, tiles: DecodeTiles) -> ChunkPlan:
        num_sequences = len(self.lengths)
        num_programs = tiles.num_programs(num_kv_heads, self.lengths.device)
        plan = ChunkPlan(
            num_programs,
            work=self.lengths.new_empty(num_programs + num_sequences, CHUNK_FIELDS.value),
            padding=self.lengths.new_empty(num_programs + num_sequences),
            arrivals=self.lengths.new_empty(num_sequences, num_kv_heads),
        )
        plan_chunks[(num_sequences,)](
            plan.work,
            plan.padding,
            plan.arrivals,
            self.query_start_loc,
            self.lengths,
            num_sequences,
            num_programs,
            _NO_WINDOW if window is None else window,
            SEQUENCES=max(_FEW_SEQUENCES, triton.next_power_of_2(num_sequences)),
            NUM_KV_HEADS=num_kv_heads,
            TILE=tiles.keys,
            MIN_TOKENS=tiles.min_tokens,
            **overlapping(self.lengths.device),
        )
        return plan

    def _plan_tiles(self, queries_per_tile: int) -> Tensor:
        # Each sequence adds at most one tile by rounding up.
        num_items = self.num_prefill_rows // queries_per_tile + self.num_prefills
        work = self.lengths.new_empty(num_items, TILE_FIELDS.value)
        plan_tiles[(len(self.lengths),)](
            work,
            self.query_start_loc,
            self.lengths,
            len(self.lengths),
            num_items,
            SEQUENCES=triton.next_power_of_2(len(self.lengths)),
            QUERIES=queries_per_tile,
            **overlapping(self.lengths.device),
        )
        return work
