"""How long a Llama layer's products take on a GPU, with and without adapters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from loramux_kernels.triton_lora import LoRATiles, LoRAWork
from loramux_kernels.triton_lora.prefill import add_dense_
from loramux_kernels.triton_lora.work_list import SingleAdapter
from tests.kernels.lora_cases import Layer, Segments

LLAMA = [(4096, [4096, 1024, 1024]), (4096, [4096]), (4096, [14336, 14336]), (14336, [4096])]
NUM_SITES = 7
DEVICE = "cuda"
DTYPE = torch.bfloat16


class LlamaLayer:
    """One layer's products at one batch size, and adapters: 32 of rank 16, 32 of mixed ranks."""

    def __init__(self, num_rows: int, ranks: list[int]) -> None:
        self.num_rows = num_rows
        self.lora = Layer(LLAMA, [[r] * NUM_SITES for r in ranks], DTYPE, DEVICE, 8192)
        self.weights = [normal(sum(outs), ins) * ins**-0.5 for ins, outs in LLAMA]
        self.inputs = [normal(num_rows, ins) for ins, _ in LLAMA]
        self.outputs = [normal(num_rows, sum(outs)) for _, outs in LLAMA]
        self.side = torch.cuda.Stream()

    def product(self, index: int) -> None:
        torch.mm(self.inputs[index], self.weights[index].t(), out=self.outputs[index])

    def base(self) -> None:
        for index in range(len(LLAMA)):
            self.product(index)

    def with_lora(self, work: LoRAWork, fork: bool, expands: bool = True) -> None:
        from loramux_kernels.triton_lora.expand import expand_
        from loramux_kernels.triton_lora.shrink import shrink

        main = torch.cuda.current_stream()
        for index, projection in enumerate(self.lora.projections):
            if fork:
                self.side.wait_stream(main)
                with torch.cuda.stream(self.side):
                    shrink(self.inputs[index], projection, work)
            self.product(index)
            if fork:
                main.wait_stream(self.side)
            else:
                shrink(self.inputs[index], projection, work)
            if expands:
                expand_(self.outputs[index], projection, work)

    def dense(self, slot: int) -> None:
        single = SingleAdapter(slot, 0, self.num_rows)
        for index, projection in enumerate(self.lora.projections):
            self.product(index)
            add_dense_(self.outputs[index], self.inputs[index], projection, self.lora.table, single)

    def measure_base(self, copies: int, repeats: int) -> float:
        """Time the layer without adapters, and keep its outputs to check the others against."""
        time = microseconds(captured(self.base, copies), copies, repeats)
        self.without = [output.clone() for output in self.outputs]
        return time

    def verdict(self, segments: Segments, indices: list[int]) -> str:
        """Whether the outputs are right as the last replay left them."""
        try:
            for index in indices:
                self.lora.check(
                    index, self.outputs[index], self.without[index], self.inputs[index], segments
                )
        except AssertionError as error:
            return f"WRONG {error}"
        return ""

    def lora_bytes(self, segments: Segments) -> int:
        """Fewest bytes: each matrix once, each row's input once, its output read and written."""
        total = 0
        for slot, rows in segments:
            for ins, outs in LLAMA:
                rank = self.lora.ranks[slot][0]
                total += 2 * (rank * (ins * len(outs) + sum(outs)))
                total += 2 * len(rows) * (ins + 2 * sum(outs))
        return total


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, device=DEVICE, dtype=DTYPE)


def captured(step: Callable[[], None], copies: int) -> torch.cuda.CUDAGraph:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(copies):
            step()
    return graph


def microseconds(graph: torch.cuda.CUDAGraph, copies: int, repeats: int, warmups: int = 3) -> float:
    """Median over repeats of one replay, per copy of the step."""
    for _ in range(warmups):
        graph.replay()
    times = []
    for _ in range(repeats):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) * 1e3 / copies)
    return median(times)


def copy_bandwidth() -> float:
    """Bytes read and written per microsecond."""
    source = torch.randn(2**28, device="cuda")
    target = torch.empty_like(source)
    graph = captured(lambda: target.copy_(source), 2)
    return 2 * source.nbytes / microseconds(graph, 2, 10)


@dataclass(frozen=True)
class Mix:
    name: str
    segments: Segments


def mixes(num_rows: int) -> list[Mix]:
    """Rows dealt out to adapters in turn, as decoding sequences arrive."""

    def dealt(slots: range, rows: int) -> Segments:
        return [(slot, range(at, rows, len(slots))) for at, slot in enumerate(slots)]

    return [
        Mix("none", []),
        Mix("1 of 16", dealt(range(1), num_rows)),
        Mix("8 of 16", dealt(range(8), num_rows)),
        Mix("8, half base", dealt(range(8), num_rows // 2)),
        Mix("32 of 16", dealt(range(32), num_rows)),
        Mix("32 of 8-256", dealt(range(32, 64), num_rows)),
    ]


def report(layer: LlamaLayer, mix: Mix, base: float, times: dict[str, float], speed: float) -> str:
    bound = layer.lora_bytes(mix.segments) / speed
    cells = "  ".join(f"{name} {t:.1f} ({base / t:.3f})" for name, t in times.items())
    return f"base {base:.1f}  bound +{bound:.1f} ({base / (base + bound):.3f})  {cells}"


def measured(
    layer: LlamaLayer, tiles: LoRATiles, fork: bool, cases: list[Mix], base: float, speed: float,
    copies: int, repeats: int,
) -> str:  # fmt: skip
    """All mixes through two graphs: with shrink alone, and with both."""
    work = layer.lora.work(tiles, layer.num_rows)
    work.fill(cases[-1].segments)
    shrink = captured(lambda: layer.with_lora(work, fork, expands=False), copies)
    both = captured(lambda: layer.with_lora(work, fork), copies)
    lines = []
    for mix in cases:
        work.fill(mix.segments)
        times = {"shrink": microseconds(shrink, copies, repeats)}
        times["both"] = microseconds(both, copies, repeats)
        wrong = layer.verdict(mix.segments, [0, 3])
        lines.append(f"\n    {mix.name:13s} {report(layer, mix, base, times, speed)} {wrong}")
    return "".join(lines)
