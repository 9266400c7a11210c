"""From scheduled chunks to the flat tensors of one forward pass."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import Tensor

from loramux.engine.scheduling.scheduler import Chunk
from loramux_kernels.paged_attention import AttentionBatch, DecodeGroup, PrefillChunk


@dataclass(frozen=True, eq=False)
class ChunkRows:
    """A chunk and its rows ``start`` to ``stop`` in the flat batch."""

    chunk: Chunk
    start: int
    stop: int

    @property
    def length(self) -> int:
        """Tokens of the sequence in the cache once the chunk is computed."""
        return self.chunk.sequence.num_computed_tokens + self.chunk.num_tokens

    @property
    def first_position(self) -> int:
        return self.chunk.sequence.num_computed_tokens


@dataclass(frozen=True, eq=False)
class StepInputs:
    """Tensors of one forward pass over ``num_rows`` tokens.

    Shapes:
        input_ids, positions: ``[1, num_rows]``.
    """

    input_ids: Tensor
    positions: Tensor
    attention: AttentionBatch
    rows: list[ChunkRows]

    @property
    def num_rows(self) -> int:
        return self.rows[-1].stop


def build_inputs(chunks: Seq[Chunk], block_size: int, device: torch.device) -> StepInputs:
    """Lay the chunks out one after another, in the scheduler's order."""
    rows = _lay_out(chunks)
    token_ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    for chunk_rows in rows:
        first, length = chunk_rows.first_position, chunk_rows.length
        token_ids += chunk_rows.chunk.sequence.tokens(first, length)
        positions += range(first, length)
        slots += _slots(chunk_rows.chunk.sequence.block_ids, first, length, block_size)
    return StepInputs(
        input_ids=torch.tensor([token_ids], device=device),
        positions=torch.tensor([positions], device=device),
        attention=AttentionBatch(
            slots=torch.tensor(slots, device=device),
            decodes=_decode_groups(rows, block_size, device),
            prefills=[_prefill_chunk(r, block_size, device) for r in rows if _is_prefill(r)],
            block_size=block_size,
        ),
        rows=rows,
    )


def _lay_out(chunks: Seq[Chunk]) -> list[ChunkRows]:
    rows = []
    start = 0
    for chunk in chunks:
        rows.append(ChunkRows(chunk, start, start + chunk.num_tokens))
        start += chunk.num_tokens
    return rows


def _slots(block_ids: list[int], first: int, length: int, block_size: int) -> list[int]:
    return [
        block_ids[position // block_size] * block_size + position % block_size
        for position in range(first, length)
    ]


def _is_prefill(rows: ChunkRows) -> bool:
    return rows.chunk.num_tokens > 1


def _prefill_chunk(rows: ChunkRows, block_size: int, device: torch.device) -> PrefillChunk:
    num_blocks = -(-rows.length // block_size)
    block_ids = rows.chunk.sequence.block_ids[:num_blocks]
    return PrefillChunk(rows.start, rows.stop, rows.length, torch.tensor(block_ids, device=device))


def _decode_groups(
    rows: list[ChunkRows], block_size: int, device: torch.device
) -> list[DecodeGroup]:
    """Group single tokens so that no group pads its shorter sequences to more than double."""
    decodes = sorted((r for r in rows if not _is_prefill(r)), key=lambda r: r.length)
    groups: list[list[ChunkRows]] = []
    for decode in decodes:
        shortest = groups[-1][0].length if groups else 0
        if groups and decode.length <= 2 * max(shortest, 4 * block_size):
            groups[-1].append(decode)
        else:
            groups.append([decode])
    return [_decode_group(group, block_size, device) for group in groups]


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
