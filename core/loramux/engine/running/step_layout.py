"""From scheduled chunks to one flat batch of tokens, still on the host."""

from __future__ import annotations

from array import array
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np

from loramux.engine.scheduling.scheduler import Chunk
from loramux.engine.scheduling.sequence import Sequence


@dataclass(frozen=True, eq=False)
class ChunkRows:
    """A chunk and its rows ``start`` to ``stop`` in the flat batch."""

    chunk: Chunk
    start: int
    stop: int

    @property
    def length(self) -> int:
        """Tokens of the sequence in the cache once the chunk is computed."""
        return self.chunk.end

    @property
    def is_prefill(self) -> bool:
        return self.stop - self.start > 1


@dataclass(frozen=True, eq=False)
class StepLayout:
    """The tokens of one step, chunk after chunk.

    ``token_ids``, ``positions`` and ``slots`` (block times block size plus offset in the cache)
    have one entry for each row. A token in flight has the id ``-1 - row``, where ``row`` is its
    place among the tokens that the step before sampled.
    """

    rows: list[ChunkRows]
    token_ids: array[int]
    positions: array[int]
    slots: array[int]
    block_size: int

    @property
    def num_rows(self) -> int:
        return self.rows[-1].stop

    @property
    def has_prefills(self) -> bool:
        return self.num_rows > len(self.rows)

    @property
    def logit_rows(self) -> list[int]:
        """Rows whose logits decide the next token of their sequence."""
        return [rows.stop - 1 for rows in self.rows if rows.chunk.samples]


def lay_out(chunks: Seq[Chunk], block_size: int) -> StepLayout:
    """Lay the chunks out one after another, in their order."""
    layout = StepLayout([], array("i"), array("i"), array("i"), block_size)
    start = 0
    for chunk in chunks:
        layout.rows.append(ChunkRows(chunk, start, start + chunk.num_tokens))
        start += chunk.num_tokens
        if chunk.num_tokens == 1:
            _add_token(layout, chunk)
        else:
            _add_tokens(layout, chunk)
    return layout


def _add_token(layout: StepLayout, chunk: Chunk) -> None:
    """The common case of a running stream, without the detour over arrays."""
    position, sequence = chunk.first, chunk.sequence
    block, offset = divmod(position, layout.block_size)
    layout.token_ids.extend(_token_ids(sequence, position, position + 1))
    layout.positions.append(position)
    layout.slots.append(sequence.block_ids[block] * layout.block_size + offset)


def _add_tokens(layout: StepLayout, chunk: Chunk) -> None:
    positions = np.arange(chunk.first, chunk.end, dtype=np.int32)
    blocks = np.asarray(chunk.sequence.block_ids, dtype=np.int32)[positions // layout.block_size]
    slots = blocks * layout.block_size + positions % layout.block_size
    layout.token_ids.extend(_token_ids(chunk.sequence, chunk.first, chunk.end))
    layout.positions.frombytes(positions.tobytes())
    layout.slots.frombytes(slots.tobytes())


def _token_ids(sequence: Sequence, first: int, end: int) -> list[int]:
    if end <= sequence.num_known_tokens:
        return sequence.tokens(first, end)
    return [*sequence.tokens(first, end - 1), -1 - sequence.sampled_row]
