"""Kernels of long steps with adapters, each alone, in tiles that compete; those shipped first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from loramux_kernels.blocks import RMSNorm, Rotation, add_rms_norm_, gated_activation
from loramux_kernels.paged_attention import LayerCache
from loramux_kernels.triton_lora import PREFILL, LoRATiles, LoRAWork
from loramux_kernels.tuned.lora_shapes import NormalizationTiles, RotationTiles, WalkingActivation
from tests.kernels.block_cases import Attention, Place, rotary_table
from tests.kernels.lora_cases import Layer, Segments
from tests.kernels.lora_timing import LLAMA, captured, microseconds

ATTENTION = Attention(32, 8, 128, 128)
NAMES = ("qkv", "o", "gate-up", "down")
LONG = 8192


def shrinking(rows: int = 64, **changes: int | None) -> LoRATiles:
    return replace(PREFILL, rows=rows, shrink=replace(PREFILL.shrink, **changes))


def activating(rows: int, columns: int, warps: int, programs: int, registers: int) -> LoRATiles:
    shape = WalkingActivation(columns, warps, programs, registers)
    return replace(PREFILL, fused=replace(PREFILL.fused, rows=rows, activation=shape))


def rotating(rows: int, heads: int, programs: int, registers: int) -> LoRATiles:
    shape = RotationTiles(heads, programs, registers)
    return replace(PREFILL, fused=replace(PREFILL.fused, rows=rows, rotation=shape))


def normalizing(programs: int, registers: int) -> LoRATiles:
    shape = NormalizationTiles(16, programs, registers)
    return replace(PREFILL, fused=replace(PREFILL.fused, normalization=shape))


@dataclass(frozen=True)
class Contest:
    """Tiles of one kernel by name, and what was predicted for the first and without updates."""

    tiles: dict[str, LoRATiles]
    predicted: str


CONTESTS = {
    "shrink": Contest(
        {
            "shipped": PREFILL,
            "64 features": shrinking(features=64, stages=8),
            "4 splits": shrinking(whole_rows=None),
            "128 rows, 2 splits": shrinking(128, warps=8, max_splits=2, whole_rows=None),
            "2/SM": shrinking(programs_per_sm=2),
        },
        "23 + 21 + 22 + 59 = 125",
    ),
    "activation": Contest(
        {
            "16x128 w4 5/SM": PREFILL,
            "16x128 w4 4/SM": activating(16, 128, 4, 4, 128),
            "16x256 w8 2/SM": activating(16, 256, 8, 2, 128),
        },
        "206, plain 180",
    ),
    "rotation": Contest(
        {
            "16 rows 16 heads 4/SM": PREFILL,
            "16 rows 16 heads 3/SM": rotating(16, 16, 3, 168),
        },
        "83, plain 64",
    ),
    "norm": Contest({"2/SM": PREFILL, "1/SM": normalizing(1, 255)}, "100, plain 72"),
}


class Step:
    """A long step on some adapters of rank 16: what each kernel reads."""

    def __init__(self, rows: int, num_adapters: int) -> None:
        place = self.place = Place(torch.bfloat16, "cuda")
        self.rows = rows
        self.lora = Layer(LLAMA, [[16] * 7] * num_adapters, torch.bfloat16, "cuda", 8192)
        self.segments: Segments = [
            (slot, range(start, min(start + 512, rows)))
            for start in range(0, rows, 512)
            for slot in [start // 512 % num_adapters]
        ]
        self.norm: RMSNorm = place.norm(4096, plus_one=False)
        self.residual = place.random(rows, 4096)
        blocks = rows // 16 + 1, 16, 8, 128
        self.rotation = Rotation(
            torch.arange(rows, device="cuda"),
            *rotary_table(8192, 128, "cuda"),
            ATTENTION.layout(place),
            LayerCache(place.random(*blocks), place.random(*blocks)),
            torch.arange(rows, device="cuda"),
        )

    def work(self, tiles: LoRATiles) -> LoRAWork:
        work = LoRAWork(self.lora.table, tiles, self.rows, 16, 3)
        work.partials.zero_()
        work.fill(self.segments, self.rows)
        return work

    def plain(self, kernel: str) -> Callable[[], Tensor]:
        """The block without updates; for shrink a product of all rows with 8 adapters' A."""
        if kernel == "shrink":
            x = self.place.random(self.rows, 14336)
            a = self.place.random(128, 14336)
            return lambda: torch.mm(x, a.t())
        y = self.product(kernel)
        return {
            "activation": lambda: gated_activation(y, "silu"),
            "rotation": lambda: self.rotation(y),
            "norm": lambda: add_rms_norm_(y, self.residual, self.norm),
        }[kernel]

    def product(self, kernel: str) -> Tensor:
        index = {"rotation": 0, "norm": 1, "activation": 2}[kernel]
        return self.place.random(self.rows, sum(LLAMA[index][1]))

    def calls(self, kernel: str, tiles: LoRATiles) -> list[Callable[[], object]]:
        """The kernel with updates: shrink for four products, the others for one."""
        from loramux_kernels.triton_lora.fused.activation import activate_updated
        from loramux_kernels.triton_lora.fused.normalization import add_rms_norm_updated_
        from loramux_kernels.triton_lora.fused.rotation import rotate_and_store_updated_
        from loramux_kernels.triton_lora.shrink import shrink

        work, projections = self.work(tiles), self.lora.projections
        if kernel == "shrink":
            inputs = {width: self.place.random(self.rows, width) for width in (4096, 14336)}
            return [
                lambda p=projection: shrink(inputs[p.in_features], p, work)
                for projection in projections
            ]
        y = self.product(kernel)
        return {
            "activation": [lambda: activate_updated(y, projections[2], work, "silu")],
            "rotation": [lambda: rotate_and_store_updated_(y, projections[0], work, self.rotation)],
            "norm": [
                lambda: add_rms_norm_updated_(y, self.residual, projections[1], work, self.norm)
            ],
        }[kernel]


def compile_tiles(kernel: str, name: str) -> None:
    """Launch once, in a process of its own, so that others find it compiled."""
    for call in Step(LONG, 1).calls(kernel, CONTESTS[kernel].tiles[name]):
        call()
    torch.cuda.synchronize()


def contest(step: Step, kernel: str) -> Iterable[str]:
    """A line of microseconds for each of the kernel's tiles."""
    plain = microseconds(captured(step.plain(kernel), 2), 2, 7)
    yield f"{kernel}: predicted {CONTESTS[kernel].predicted}; without updates {plain:.1f}"
    for name, tiles in CONTESTS[kernel].tiles.items():
        times = [microseconds(captured(call, 2), 2, 7) for call in step.calls(kernel, tiles)]
        parts = " + ".join(f"{time:.1f}" for time in times)
        yield f"    {name:24}{parts} = {sum(times):.1f}"
