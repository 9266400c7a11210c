"""A whole Llama layer but for its attention, with adapters added in three ways, timed in graphs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from torch import Tensor

from loramux_kernels.blocks import RMSNorm, Rotation, add_rms_norm_, gated_activation
from loramux_kernels.branch import Branch
from loramux_kernels.paged_attention import LayerCache
from loramux_kernels.triton_lora import (
    DECODE,
    PREFILL,
    LoRATiles,
    LoRAWork,
    activate_with_lora,
    add_rms_norm_with_lora_,
    apply_lora_,
    begin_rank_vectors,
    rotate_and_store_with_lora_,
)
from loramux_kernels.triton_lora.rank_vectors import BESIDE_ROWS
from tests.kernels.block_cases import Attention, Place, rotary_table
from tests.kernels.lora_cases import Layer, Segments
from tests.kernels.lora_timing import LLAMA, NUM_SITES, captured, microseconds

ATTENTION = Attention(32, 8, 128, 128)
MIXED_RANKS = [8, 16, 32, 64, 8, 128, 16, 256] * 4
RANKS = [[rank] * NUM_SITES for rank in [16] * 32 + MIXED_RANKS]
MAX_DECODE_ROWS = 256
STREAMS = 16
"""Rows of single tokens beside a prompt, where the number of rows shows that there are some."""
RUN = 512
"""Rows of one adapter in a step of prompts."""


@dataclass(frozen=True)
class Mix:
    """Adapters of a step; a graph is captured for the largest rank."""

    name: str
    slots: range
    max_rank: int

    def segments(self, num_rows: int) -> Segments:
        count = len(self.slots)
        if num_rows <= MAX_DECODE_ROWS:
            return [(slot, range(at, num_rows, count)) for at, slot in enumerate(self.slots)]
        prompts = num_rows // RUN * RUN if num_rows >= RUN else num_rows - STREAMS
        spans = [(start, min(start + RUN, prompts)) for start in range(0, prompts, RUN)]
        spans += [(row, row + 1) for row in range(prompts, num_rows)]
        return [(self.slots[number % count], range(*span)) for number, span in enumerate(spans)]


MIXES = [
    Mix("8 of 16", range(8), 16),
    Mix("32 of 16", range(32), 16),
    Mix("32 of 8-256", range(32, 64), 256),
]


class LlamaLayer:
    """Weights and adapters; the rows are those of the last ``take``."""

    def __init__(self) -> None:
        place = self.place = Place(torch.bfloat16, "cuda")
        self.lora = Layer(LLAMA, RANKS, torch.bfloat16, "cuda", 8192)
        self.weights = [place.random(sum(outs), ins) * ins**-0.5 for ins, outs in LLAMA]
        self.norms = [place.norm(4096, plus_one=False) for _ in range(2)]
        self.table = rotary_table(8192, 128, "cuda")
        self.take(1)

    def take(self, rows: int) -> None:
        place, blocks = self.place, (rows // 16 + 1, 16, 8, 128)
        self.rows, self.x = rows, place.random(rows, 4096)
        self.residual = place.random(rows, 4096)
        self.rotation = Rotation(
            torch.randint(0, 8192, (rows,), device="cuda"),
            *self.table,
            ATTENTION.layout(place),
            LayerCache(place.random(*blocks), place.random(*blocks)),
            torch.randperm(rows, device="cuda"),
        )
        self.tiles = DECODE if rows <= MAX_DECODE_ROWS else PREFILL
        self.works = {rank: self.work(self.tiles, rank) for rank in (16, 256)}

    def work(self, tiles: LoRATiles, max_rank: int) -> LoRAWork:
        return LoRAWork(self.lora.table, tiles, self.rows, max_rank, 3)

    def run(self, way: Way, work: LoRAWork) -> Tensor:
        """The layer; its attention returns the queries."""
        qkv, output, gate_up, down = range(4)
        x = way.rotate(self, qkv, self.x, work).flatten(1)
        x = way.normalize(self, output, x, self.norms[0], work)
        x = way.activate(self, gate_up, x, work)
        return way.normalize(self, down, x, self.norms[1], work)

    def product(self, index: int, x: Tensor) -> Tensor:
        return torch.mm(x, self.weights[index].t())

    def compare(
        self, mix: Mix, copies: int, repeats: int, others: Mapping[str, LoRATiles] | None = None
    ) -> tuple[float, dict[str, float]]:
        """Microseconds of one layer without adapters, and how many more each way takes.

        In graphs that were captured for no adapters at all, replayed in turn: clocks move by more
        from one second to the next than what is told apart here. ``others`` are tiles that
        compete with those shipped, fused.
        """
        shipped = self.works[mix.max_rank]
        runs = {way.name: (way, shipped) for way in (Way(), *WAYS)}
        if self.rows <= BESIDE_ROWS:
            beside = self.work(self.tiles, mix.max_rank)
            beside.branch = Branch(self.x.device)
            runs["beside"] = WAYS[-1], beside
        for name, tiles in (others or {}).items():
            runs[name] = WAYS[-1], self.work(tiles, mix.max_rank)
        graphs = []
        for way, work in runs.values():
            work.fill([], self.rows)
            graphs.append(captured(partial(self.run, way, work), copies))
        for _, work in runs.values():
            work.fill(mix.segments(self.rows), self.rows)
        rounds = [[microseconds(graph, copies, 1, 1) for graph in graphs] for _ in range(repeats)]
        more = [median(times[i] - times[0] for times in rounds) for i in range(len(graphs))]
        return median(times[0] for times in rounds), dict(zip([*runs][1:], more[1:], strict=True))


class Way:
    """Without adapters."""

    name = "base"

    def rotate(self, layer: LlamaLayer, index: int, x: Tensor, work: LoRAWork) -> Tensor:
        return layer.rotation(self.updated(layer, index, x, work))

    def normalize(
        self, layer: LlamaLayer, index: int, x: Tensor, norm: RMSNorm, work: LoRAWork
    ) -> Tensor:
        return add_rms_norm_(self.updated(layer, index, x, work), layer.residual, norm)

    def activate(self, layer: LlamaLayer, index: int, x: Tensor, work: LoRAWork) -> Tensor:
        return gated_activation(self.updated(layer, index, x, work), "silu")

    def updated(self, layer: LlamaLayer, index: int, x: Tensor, work: LoRAWork) -> Tensor:
        return layer.product(index, x)


class ShrinkAlone(Way):
    """Half of the work, to be told apart."""

    name = "shrink"

    def updated(self, layer: LlamaLayer, index: int, x: Tensor, work: LoRAWork) -> Tensor:
        from loramux_kernels.triton_lora.shrink import shrink

        y = layer.product(index, x)
        shrink(x, layer.lora.projections[index], work)
        return y


class Separate(Way):
    """Shrink and expand before each block."""

    name = "separate"

    def updated(self, layer: LlamaLayer, index: int, x: Tensor, work: LoRAWork) -> Tensor:
        y = layer.product(index, x)
        apply_lora_(y, x, layer.lora.projections[index], work)
        return y


class Fused(Way):
    """As the decoder has it; shrink beside the product where the work list has a branch."""

    name = "fused"

    def product(self, layer: LlamaLayer, index: int, x: Tensor, work: LoRAWork) -> Tensor:
        begin_rank_vectors(x, layer.lora.projections[index], work)
        return layer.product(index, x)

    def rotate(self, layer: LlamaLayer, index: int, x: Tensor, work: LoRAWork) -> Tensor:
        projection = layer.lora.projections[index]
        y = self.product(layer, index, x, work)
        return rotate_and_store_with_lora_(y, x, projection, work, layer.rotation)

    def normalize(
        self, layer: LlamaLayer, index: int, x: Tensor, norm: RMSNorm, work: LoRAWork
    ) -> Tensor:
        projection = layer.lora.projections[index]
        y = self.product(layer, index, x, work)
        return add_rms_norm_with_lora_(y, x, layer.residual, projection, work, norm)

    def activate(self, layer: LlamaLayer, index: int, x: Tensor, work: LoRAWork) -> Tensor:
        projection = layer.lora.projections[index]
        y = self.product(layer, index, x, work)
        return activate_with_lora(y, x, projection, work, "silu")


WAYS: list[Way] = [ShrinkAlone(), Separate(), Fused()]


def kernel_times(layer: LlamaLayer, mix: Mix, copies: int, repeats: int) -> dict[str, float]:
    """Microseconds of each block of decodes, plain and with its updates but without shrink."""
    from loramux_kernels.triton_lora.expand import expand_
    from loramux_kernels.triton_lora.fused.activation import activate_updated
    from loramux_kernels.triton_lora.fused.rotation import rotate_and_store_updated_

    work, projections = layer.works[mix.max_rank], layer.lora.projections
    y = [layer.place.random(layer.rows, sum(outs)) for _, outs in LLAMA]
    calls: dict[str, Callable[[], object]] = {
        "rotate": lambda: layer.rotation(y[0]),
        "rotate +": lambda: rotate_and_store_updated_(y[0], projections[0], work, layer.rotation),
        "activate": lambda: gated_activation(y[2], "silu"),
        "activate +": lambda: activate_updated(y[2], projections[2], work, "silu"),
        "norm": lambda: add_rms_norm_(y[1], layer.residual, layer.norms[0]),
        "expand": lambda: expand_(y[1], projections[1], work),
    }
    work.fill(mix.segments(layer.rows), layer.rows)
    work.partials.zero_()
    return {
        name: microseconds(captured(call, copies), copies, repeats) for name, call in calls.items()
    }
