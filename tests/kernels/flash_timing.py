"""How long attention takes by each library, beside Triton's and the ceilings of the machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from loramux.engine.running.attention import AttentionBackend, PaddedBatch, TritonAttention
from loramux.engine.running.library_attention import FlashAttention, FlashInferAttention
from loramux.models.attention import Attend
from loramux_kernels.attention_libraries.flash_attention import FlashAttention2, FlashAttention3
from loramux_kernels.attention_libraries.flashinfer import FlashInfer
from loramux_kernels.paged_attention import AttentionOptions, LayerCache
from tests.kernels.attention_cases import Case
from tests.kernels.attention_timing import (
    LLAMA,
    Shapes,
    copy_bandwidth,
    matmul_rate,
    replay_seconds,
)
from tests.kernels.flash_cases import layout_of

DEVICE = "cuda"
BF16 = torch.bfloat16
MAX_SEQUENCES = 256
BLOCK_SIZES = {"Triton": 16, "FlashInfer": 16, "FlashAttention 3": 16, "flash-attn 2": 256}
CAPTURED = ("Triton", "FlashAttention 3", "flash-attn 2")
"""Those whose launches the engine's graphs hold."""


def backend(name: str) -> AttentionBackend:
    """The engine's attention by that library.

    Raises:
        AttentionLibraryError: it is not installed.
    """
    if name == "Triton":
        return TritonAttention(MAX_SEQUENCES)
    if name == "FlashInfer":
        module = FlashInfer.requirement.load()
        return FlashInferAttention(FlashInfer(module, torch.device(DEVICE)), MAX_SEQUENCES)
    kind = FlashAttention3 if name == FlashAttention3.name else FlashAttention2
    return FlashAttention(kind(kind.requirement.load()), MAX_SEQUENCES)


class Timed:
    """One layer's attention over several caches, as the engine would launch it."""

    def __init__(self, name: str, shapes: Shapes, copies: int) -> None:
        self._name, self._attention, size = name, backend(name), BLOCK_SIZES[name]
        counts = [-(-length // size) for length, _ in shapes]
        blocks = [part.tolist() for part in torch.randperm(sum(counts)).split(counts)]
        shape = (sum(counts), size, LLAMA.kv_heads, LLAMA.dim)
        self._caches = [LayerCache(_random(*shape), _random(*shape)) for _ in range(copies)]
        self._query = _random(sum(new for _, new in shapes), LLAMA.heads, LLAMA.dim)
        self._layout = layout_of(Case(shapes, block_size=size), blocks)
        self._slots = torch.full((len(self._query),), -1, dtype=torch.int32, device=DEVICE)
        made = TritonAttention(len(shapes))._metadata(self._layout, self._slots)
        self._padded = PaddedBatch(
            self._slots,
            made.block_table,
            made.lengths,
            made.query_start_loc,
            size,
            is_decode=all(new == 1 for _, new in shapes),
        )

    def layer_seconds(self) -> float:
        """Time of one layer, replayed in a graph; FlashInfer's plan is made before."""
        planned = None if self._name in CAPTURED else self._over()

        def body() -> None:
            attend = planned or self._attention.over_padded(self._padded)
            for cache in self._caches:
                attend(self._query, cache, AttentionOptions(LLAMA.dim**-0.5))

        return replay_seconds(body) / len(self._caches)

    def host_seconds(self) -> float:
        """Of a step that no graph holds: what comes before its second layer."""
        times = []
        for _ in range(20):
            torch.cuda.synchronize()
            begin = time.perf_counter()
            self._over()(self._query, self._caches[0], AttentionOptions(LLAMA.dim**-0.5))
            times.append(time.perf_counter() - begin)
        return statistics.median(times)

    def _over(self) -> Attend:
        return self._attention.over(self._layout, self._slots)


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=BF16, device=DEVICE)


def decode_cell(name: str, ceiling: float) -> str:
    timed = Timed(name, ((2048, 1),) * 64, copies=2)
    seconds = timed.layer_seconds()
    rate = 64 * 2048 * LLAMA.kv_heads * LLAMA.dim * 4 / seconds
    return f"{seconds * 1e6:8.1f} us {rate / 1e12:.2f} TB/s {rate / ceiling:4.0%}" + host(timed)


def prefill_cell(name: str, ceiling: float) -> str:
    timed = Timed(name, ((8192, 8192),), copies=2)
    seconds = timed.layer_seconds()
    rate = 8192 * 8193 // 2 * LLAMA.heads * LLAMA.dim * 4 / seconds
    return f"{seconds * 1e3:8.3f} ms {rate / 1e12:.0f} TFLOP/s {rate / ceiling:4.0%}" + host(timed)


def host(timed: Timed) -> str:
    return f", host {timed.host_seconds() * 1e6:.0f} us"


def measure(names: list[str]) -> None:
    """Print a line for each library and shape, Triton's first."""
    ceilings = copy_bandwidth(), matmul_rate()
    name = torch.cuda.get_device_name()
    print(f"{name}: copy {ceilings[0] / 1e12:.2f} TB/s, matmul {ceilings[1] / 1e12:.0f} TFLOP/s")
    rows: list[tuple[str, Callable[[str, float], str], float]] = [
        ("decode 64 x 2048", decode_cell, ceilings[0]),
        ("prefill 1 x 8192", prefill_cell, ceilings[1]),
    ]
    for title, cell, ceiling in rows:
        for library in names:
            try:
                said = cell(library, ceiling)
            except Exception as error:
                said = f"FAILED  {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            print(f"{title}  {library:18s} {said}", flush=True)
