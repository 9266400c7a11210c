"""LoRA kernels in bfloat16 on a GPU, held to float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from loramux_kernels.triton_lora import LoRATiles, LoRAWork
from tests.kernels.lora_cases import Layer, Segments, same_bits
from tests.kernels.lora_configs import DECODE_CONFIGS, PREFILL_CONFIGS
from tests.kernels.lora_timing import DEVICE, DTYPE, normal

Job = Callable[[], str]


def check_case(
    shapes: list[tuple[int, list[int]]], ranks: list[list[int]], segments: Segments,
    num_rows: int, tiles: LoRATiles,
) -> None:  # fmt: skip
    """Twice with other inputs: what the first round leaves must not help the second."""
    layer = Layer(shapes, ranks, DTYPE, DEVICE, 8192)
    work = layer.work(tiles, num_rows)
    work.fill(segments)
    for index in [*range(len(shapes)), *range(len(shapes))]:
        x, before = _random(num_rows, layer, index)
        y = before.clone()
        add_lora_(y, x, layer, index, work)
        layer.check(index, y, before, x, segments)
        again = before.clone()
        add_lora_(again, x, layer, index, work)
        assert same_bits(y, again), "two runs differ"


def _random(num_rows: int, layer: Layer, index: int) -> tuple[Tensor, Tensor]:
    projection = layer.projections[index]
    x, y = normal(num_rows, projection.in_features), normal(num_rows, projection.out_features)
    awkward = torch.tensor([-0.0, float("inf"), float("nan"), 1e-40], device=DEVICE).to(DTYPE)
    y[0] = awkward[torch.arange(projection.out_features, device=DEVICE) % 4]
    return x, y


def add_lora_(y: Tensor, x: Tensor, layer: Layer, index: int, work: LoRAWork) -> None:
    """The kernels, whatever path ``apply_lora_`` would choose."""
    from loramux_kernels.triton_lora.expand import expand_
    from loramux_kernels.triton_lora.shrink import shrink

    work.partials.fill_(float("nan"))
    shrink(x, layer.projections[index], work)
    expand_(y, layer.projections[index], work)


def cases() -> dict[str, tuple[Any, ...]]:
    """Shapes, ranks, segments and rows; row 0 belongs to nobody and holds awkward values."""
    every_rank = [[1], [3], [8], [16], [17], [33], [64], [100], [255], [256]]
    packed = [(2880, [2880, 480, 480]), (688, [11008, 11008]), (11008, [688])]
    alone = [[5, 0, 16, 8, 0, 64], [0, 17, 3, 0, 40, 1], [16, 16, 16, 16, 16, 16]]
    odd = [(43, [33, 7]), (50, [1, 2, 3])]
    few: Segments = [(slot, [2 * slot + 1, 2 * slot + 2]) for slot in range(10)]
    many: Segments = [(slot, [128 - slot]) for slot in range(128)]
    long: Segments = [(0, range(1, 200)), (1, [*range(230, 600), 610]), (2, range(700, 900))]
    long_ranks: Segments = [(slot, range(70 * slot + 1, 70 * slot + 70)) for slot in range(10)]
    return {
        "slices left alone": (packed, alone, [(0, [1, 5]), (1, [7]), (2, [9, 8, 3])], 12),
        "long": (packed, alone, long, 901),
        "ranks 1-256": ([(2880, [688])], every_rank, few, 24),
        "long, ranks 1-256": ([(2880, [688])], every_rank, long_ranks, 701),
        "128 adapters": ([(4096, [1024])], [[1 + s % 31] for s in range(128)], many, 130),
        "nothing divides": (odd, [[5] * 5, [20] * 5], few[:2], 9),
    }


def correctness(shipped: bool) -> Iterator[tuple[str, Job]]:
    """All cases for the tiles that are shipped, one for each other configuration."""
    configs = {
        f"decode {name}": tiles for name, (tiles, fork) in DECODE_CONFIGS.items() if not fork
    }
    configs |= {f"prefill {name}": tiles for name, tiles in PREFILL_CONFIGS.items()}
    for name, tiles in configs.items():
        if name.endswith("shipped") == shipped:
            for case in cases() if shipped else ["long"]:
                yield f"{name}: {case}", _checking(cases()[case], tiles)


def _checking(arguments: tuple[Any, ...], tiles: LoRATiles) -> Job:
    def job() -> str:
        check_case(*arguments, tiles)
        return "right"

    return job
