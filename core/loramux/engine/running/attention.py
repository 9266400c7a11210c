"""Which attention runs on which device, and what each must know of a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from loramux.engine.running.step_layout import ChunkRows, StepLayout
from loramux.models.attention import Attend
from loramux_kernels.paged_attention import (
    AttentionBatch,
    DecodeGroup,
    LayerCache,
    PrefillChunk,
    paged_attention,
)

if TYPE_CHECKING:
    from loramux_kernels.triton_attention import Metadata


@dataclass(frozen=True, eq=False)
class PaddedBatch:
    """A step of fixed size in device memory at fixed addresses, as int32.

    Shapes:
        slots: ``[rows]``, -1 for rows of padding.
        block_table: ``[sequences, max_blocks]``.
        lengths: ``[sequences]``, 0 for those of padding.
        query_start_loc: ``[sequences + 1]``, where each sequence's rows begin, and the end.
    """

    slots: Tensor
    block_table: Tensor
    lengths: Tensor
    query_start_loc: Tensor
    block_size: int
    is_decode: bool
    """Every sequence has one row, those of padding too."""


class AttentionBackend(ABC):
    """Attention over the paged cache, one instance for each engine."""

    reads_stale_keys: bool
    """Whether what a block still holds of a stranger is read, if only to be masked."""
    can_be_captured: bool
    """Whether CUDA graphs may hold its launches."""
    slot_dtype: torch.dtype

    @abstractmethod
    def write(self, cache: LayerCache, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store new tokens, ``[num_rows, num_kv_heads, dim]``, at their slots."""

    @abstractmethod
    def over(self, layout: StepLayout, slots: Tensor) -> Attend:
        """The attention of one step, whose ``slots`` are on the device."""

    def over_padded(self, batch: PaddedBatch) -> Attend:
        """The attention of steps that CUDA graphs hold: launches depend on no content of tensors.

        Raises:
            NotImplementedError: not ``can_be_captured``.
        """
        raise NotImplementedError(
            f"{type(self).__name__} cannot be held by CUDA graphs: set enforce_eager."
        )


class TorchAttention(AttentionBackend):
    """Runs everywhere, and is what the others are checked against."""

    reads_stale_keys = True
    can_be_captured = False
    slot_dtype = torch.int64

    def write(self, cache: LayerCache, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        cache.write(slots, keys, values)

    def over(self, layout: StepLayout, slots: Tensor) -> Attend:
        batch = torch_batch(layout, slots)

        def attend(query: Tensor, cache: LayerCache, options: object) -> Tensor:
            return paged_attention(query, cache, batch, options)  # type: ignore[arg-type]

        return attend


class TritonAttention(AttentionBackend):
    """NVIDIA GPUs; see ``loramux_kernels.triton_attention``.

    Every step is padded to ``max_num_seqs`` sequences, some of them without tokens: kernels are
    compiled for a number of sequences, which must not happen while requests wait.
    """

    reads_stale_keys = False
    can_be_captured = True
    slot_dtype = torch.int32

    def __init__(self, max_num_seqs: int) -> None:
        from loramux_kernels import triton_attention

        self._kernels = triton_attention
        self._max_num_seqs = max_num_seqs

    def write(self, cache: LayerCache, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        self._kernels.write_kv(cache, slots, keys, values)

    def over(self, layout: StepLayout, slots: Tensor) -> Attend:
        return self._attend_over(self._metadata(layout, slots))

    def over_padded(self, batch: PaddedBatch) -> Attend:
        return self._attend_over(self._padded_metadata(batch))

    def _attend_over(self, metadata: Metadata) -> Attend:
        return partial(_attend_triton, self._kernels.triton_paged_attention, metadata)

    def _metadata(self, layout: StepLayout, slots: Tensor) -> Metadata:
        spare = self._max_num_seqs - len(layout.rows)
        return self._kernels.Metadata.build(
            slots,
            filled_blocks(layout) + [[]] * spare,
            [rows.length for rows in layout.rows] + [0] * spare,
            [rows.chunk.num_tokens for rows in layout.rows] + [0] * spare,
            layout.block_size,
        )

    def _padded_metadata(self, batch: PaddedBatch) -> Metadata:
        rows, sequences = len(batch.slots), len(batch.lengths)
        return self._kernels.Metadata(
            batch.slots,
            batch.block_table,
            batch.lengths,
            batch.query_start_loc,
            batch.block_size,
            num_decodes=sequences,
            num_prefills=0 if batch.is_decode else min(sequences, rows // 2),
            num_prefill_rows=0 if batch.is_decode else rows,
        )


def _attend_triton(
    kernel: Callable[..., Tensor],
    metadata: object,
    query: Tensor,
    cache: LayerCache,
    options: object,
) -> Tensor:
    return kernel(query, cache, metadata, options)


def filled_blocks(layout: StepLayout) -> list[list[int]]:
    """The blocks of each sequence that have tokens after the step."""
    return [
        rows.chunk.sequence.block_ids[: -(-rows.length // layout.block_size)]
        for rows in layout.rows
    ]


def torch_batch(layout: StepLayout, slots: Tensor) -> AttentionBatch:
    """A step as torch's attention takes it."""
    device = slots.device
    return AttentionBatch(
        slots=slots,
        decodes=_decode_groups(layout, device),
        prefills=[
            _prefill_chunk(r, layout.block_size, device) for r in layout.rows if r.is_prefill
        ],
        block_size=layout.block_size,
    )


def _prefill_chunk(rows: ChunkRows, block_size: int, device: torch.device) -> PrefillChunk:
    num_blocks = -(-rows.length // block_size)
    block_ids = rows.chunk.sequence.block_ids[:num_blocks]
    return PrefillChunk(rows.start, rows.stop, rows.length, torch.tensor(block_ids, device=device))


def _decode_groups(layout: StepLayout, device: torch.device) -> list[DecodeGroup]:
    """Group single tokens so that no group pads its shorter sequences to more than double."""
    decodes = sorted((r for r in layout.rows if not r.is_prefill), key=lambda r: r.length)
    groups: list[list[ChunkRows]] = []
    for decode in decodes:
        shortest = groups[-1][0].length if groups else 0
        if groups and decode.length <= 2 * max(shortest, 4 * layout.block_size):
            groups[-1].append(decode)
        else:
            groups.append([decode])
    return [_decode_group(group, layout.block_size, device) for group in groups]


def _decode_group(group: list[ChunkRows], block_size: int, device: torch.device) -> DecodeGroup:
    """Tables are padded with a sequence's own first block, never with a stranger's."""
    width = -(-group[-1].length // block_size)
    tables = []
    for rows in group:
        block_ids = rows.chunk.sequence.block_ids[:width]
        tables.append(block_ids + block_ids[:1] * (width - len(block_ids)))
    return DecodeGroup(
        rows=torch.tensor([rows.start for rows in group], device=device),
        block_table=torch.tensor(tables, device=device),
        lengths=torch.tensor([rows.length for rows in group], device=device),
    )
