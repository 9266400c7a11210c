"""What the machine itself can do, measured: no figure can be better than these allow."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

_MIB = 1 << 20


@dataclass(frozen=True)
class Ceilings:
    """Best of several runs each.

    ``copy_bytes_per_second`` counts bytes read and bytes written; ``host_to_device_...`` is from
    pinned memory and None without a GPU.
    """

    device: str
    torch: str
    copy_bytes_per_second: float
    matmul_flop_per_second: float
    host_to_device_bytes_per_second: float | None


def measure_ceilings() -> Ceilings:
    """Measure this machine's first GPU, or its CPU if it has none; takes about a second."""
    has_gpu = torch.cuda.is_available()
    ceilings = Ceilings(
        device=torch.cuda.get_device_name() if has_gpu else f"CPU ({platform.machine()})",
        torch=torch.__version__,
        copy_bytes_per_second=_copy(1024 * _MIB if has_gpu else 64 * _MIB),
        matmul_flop_per_second=_matmul(8192 if has_gpu else 512),
        host_to_device_bytes_per_second=_host_to_device(256 * _MIB) if has_gpu else None,
    )
    if has_gpu:
        torch.cuda.empty_cache()  # a server that is started next needs the memory
    return ceilings


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _copy(num_bytes: int) -> float:
    source = torch.ones(num_bytes, dtype=torch.uint8, device=_device())
    target = torch.empty_like(source)
    return 2 * num_bytes / _best_seconds(lambda: target.copy_(source))


def _matmul(size: int) -> float:
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    a = torch.randn(size, size, dtype=dtype, device=_device())
    b = torch.randn(size, size, dtype=dtype, device=_device())
    return 2 * size**3 / _best_seconds(lambda: a @ b)


def _host_to_device(num_bytes: int) -> float:
    source = torch.ones(num_bytes, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(num_bytes, dtype=torch.uint8, device="cuda")
    return num_bytes / _best_seconds(lambda: target.copy_(source, non_blocking=True))


def _best_seconds(work: Callable[[], object], runs: int = 10) -> float:
    """The shortest of several runs, each waited for."""

    def run() -> float:
        _wait()
        started = time.perf_counter()
        work()
        _wait()
        return time.perf_counter() - started

    return min(run() for _ in range(runs))


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
