"""Steps of a fixed number of rows and sequences, in device memory at fixed addresses."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from loramux.engine.running.attention import AttentionBackend, PaddedBatch
from loramux.engine.running.step_layout import StepLayout, lay_out
from loramux.engine.running.tokens_in_flight import TokensInFlight
from loramux.lora.device.packed import PackedLoRA
from loramux.models.fused import FusedDecoder, FusedStep
from loramux_kernels.paged_attention import LayerCache

DECODE_ROWS = (1, 2, 4, *range(8, 64, 8), *range(64, 128, 16), *range(128, 257, 32))
MIXED_ROWS = (64, *range(128, 640, 64), 640, 768, 896, 1024)
"""Larger steps take the device longer than the host takes to launch their kernels."""


@dataclass(frozen=True)
class StepSize:
    """How many rows and sequences a graph computes; a step may have fewer."""

    rows: int
    sequences: int
    is_decode: bool
    """Every sequence has one row."""

    @property
    def num_integers(self) -> int:
        return 3 * self.rows + 3 * self.sequences + 1


def step_sizes(max_num_seqs: int, max_num_batched_tokens: int) -> list[StepSize]:
    """The sizes to capture, decodes first, in rising order."""
    decodes = [rows for rows in DECODE_ROWS if rows < max_num_seqs] + [max_num_seqs]
    mixed = [rows for rows in MIXED_ROWS if rows <= max_num_batched_tokens]
    return [
        *(StepSize(rows, rows, is_decode=True) for rows in decodes),
        *(StepSize(rows, min(rows, max_num_seqs), is_decode=False) for rows in mixed),
    ]


class BlockTables:
    """The blocks of a step's sequences, at an address that graphs can read.

    Shapes:
        on_device: ``[max_num_seqs, max_blocks]`` int32.
    """

    def __init__(self, max_num_seqs: int, max_blocks: int, device: torch.device) -> None:
        self.on_device = torch.zeros((max_num_seqs, max_blocks), dtype=torch.int32, device=device)

    def fill(self, layout: StepLayout) -> None:
        """Copy the blocks that the step's sequences use, on the current stream."""
        counts = [-(-rows.length // layout.block_size) for rows in layout.rows]
        host = np.zeros((len(counts), max(counts)), dtype=np.int32)
        for line, rows, count in zip(host, layout.rows, counts, strict=True):
            line[:count] = rows.chunk.sequence.block_ids[:count]
        pinned = torch.from_numpy(host).pin_memory()
        self.on_device[: host.shape[0], : host.shape[1]].copy_(pinned, non_blocking=True)


@dataclass(frozen=True, eq=False)
class PaddedPlan:
    """What every padded step reads and writes."""

    decoder: FusedDecoder
    attention: AttentionBackend
    caches: dict[int, LayerCache]
    tables: BlockTables
    in_flight: TokensInFlight
    lora: PackedLoRA | None
    block_size: int
    device: torch.device

    @cached_property
    def excerpt(self) -> FusedDecoder:
        """As few layers as launch every kernel that all of them do."""
        return self.decoder.excerpt()


class PaddedStep:
    """One size of step, which smaller ones are padded to."""

    def __init__(self, size: StepSize, plan: PaddedPlan) -> None:
        self.size = size
        self._plan = plan
        self._inputs = torch.zeros(size.num_integers, dtype=torch.int32, device=plan.device)
        self._upload(_padded(lay_out([], plan.block_size), [], size))

    def fill(self, layout: StepLayout, logit_rows: list[int]) -> None:
        """Say what to compute, on the current stream."""
        self._plan.tables.fill(layout)
        self._upload(_padded(layout, logit_rows, self.size))

    def fill_lora(self, *, with_lora: bool) -> PackedLoRA | None:
        """The adapters of a step whose rows have none, for the first launches of this size."""
        lora = self._plan.lora if with_lora else None
        if lora is not None:
            lora.fill([], is_decode=self.size.is_decode)
        return lora

    @property
    def lora_choices(self) -> list[bool]:
        """Without adapters, and with them where there may be some."""
        return [False] if self._plan.lora is None else [False, True]

    def _upload(self, numbers: array[int]) -> None:
        host = torch.frombuffer(numbers, dtype=torch.int32).pin_memory()
        self._inputs.copy_(host, non_blocking=True)

    def compute(self, lora: PackedLoRA | None, *, in_excerpt: bool = False) -> Tensor:
        """Launch it; the logits of all rows of a decode, else of those that were asked for.

        ``in_excerpt`` is for the launches alone: what comes of them is of no use.
        """
        size, plan = self.size, self._plan
        decoder = plan.excerpt if in_excerpt else plan.decoder
        rows, sequences = size.rows, size.sequences
        ids, positions, slots, lengths, starts, logit_rows = torch.split(
            self._inputs, [rows, rows, rows, sequences, sequences + 1, sequences]
        )
        tables = plan.tables.on_device[:sequences]
        batch = PaddedBatch(slots, tables, lengths, starts, plan.block_size, size.is_decode)
        step = FusedStep(
            input_ids=plan.in_flight.resolve(ids),
            positions=positions,
            slots=slots,
            logit_rows=None if size.is_decode else logit_rows,
            caches=plan.caches,
            attend=plan.attention.over_padded(batch),
            lora=lora,
        )
        return decoder(step)


def _padded(layout: StepLayout, logit_rows: list[int], size: StepSize) -> array[int]:
    """A step's integers, filled up with rows that store nothing and sequences that have none.

    In a decode every sequence has one row, padding too; its length of 0 lets it attend to nothing.
    """
    rows = layout.rows
    numbers = array("i")
    for known, filler in ((layout.token_ids, 0), (layout.positions, 0), (layout.slots, -1)):
        numbers += known
        numbers += array("i", [filler]) * (size.rows - len(known))
    spare = size.sequences - len(rows)
    numbers += array("i", [one.length for one in rows])
    numbers += array("i", [0]) * spare
    counts = [one.stop - one.start for one in rows] + [int(size.is_decode)] * spare
    numbers += array("i", accumulate(counts, initial=0))
    numbers += array("i", logit_rows)
    numbers += array("i", [0]) * (size.sequences - len(logit_rows))
    return numbers
