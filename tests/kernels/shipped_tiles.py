"""What ships, compiled for every generation of GPUs and held against what each has.

``PYTHONPATH=core:kernels:. python -m tests.kernels.shipped_tiles`` compiles all, without a GPU, and
tells what each kernel takes; its status is 1 if one of them could not be launched. A few minutes.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

from loramux_kernels import gpu
from loramux_kernels.gpu import GPU, RESERVED
from tests.kernels.ahead_cases import StandInDriver
from tests.kernels.launches import launch_everything

GENERATIONS = {
    "A100": GPU((8, 0), 164 << 10, False),
    "RTX 3090": GPU((8, 6), 100 << 10, False),
    "RTX 4090, L40S": GPU((8, 9), 100 << 10, False),
    "H100, H200": GPU((9, 0), 228 << 10, True),
    "B200": GPU((10, 0), 228 << 10, True),
    "RTX 5090": GPU((12, 0), 100 << 10, True),
}
"""As the CUDA C++ Programming Guide has them, "Compute Capabilities"."""
REGISTERS = 65536
"""Of a multiprocessor, in all of them."""
TENSOR_COLUMNS = 512
"""Of the memory that products of compute capability 10.x sum in."""


@dataclass(frozen=True)
class Compiled:
    """One kernel as one GPU is given it."""

    kernel: str
    constants: str
    warps: int
    shared_bytes: int
    registers: int
    spilled_bytes: int
    tensor_columns: int

    def fits(self, gpu: GPU) -> bool:
        """Whether it can be launched."""
        return self.programs(gpu) > 0 and self.tensor_columns <= TENSOR_COLUMNS

    def programs(self, gpu: GPU) -> int:
        """How many a multiprocessor runs at once."""
        by_memory = gpu.shared_bytes // (self.shared_bytes + RESERVED)
        return min(by_memory, REGISTERS // (self.registers * 32 * self.warps))

    def __str__(self) -> str:
        return (
            f"{self.kernel:22} {self.shared_bytes:7} B  {self.registers:3} registers  "
            f"{self.spilled_bytes:5} B spilled  {self.warps} warps  {self.constants}"
        )


@contextmanager
def pretended(generation: GPU) -> Iterator[None]:
    """Triton compiles for this GPU, and the kernels' tables take the CPU for it."""
    import triton
    from triton.backends.compiler import GPUTarget

    driver, number = StandInDriver(), 10 * generation.capability[0] + generation.capability[1]
    driver.target = GPUTarget("cuda", number, 32)
    driver.get_current_device = lambda: number  # for which Triton keeps what it has compiled
    triton.runtime.driver.set_active(driver)
    with mock.patch.object(gpu, "INTERPRETER", generation):
        yield


def compiled(generation: GPU, launch: Callable[[], None], kernels: str = "") -> list[Compiled]:
    """What is launched on a GPU, of kernels whose names match."""
    from loramux_kernels.ahead.rehearsal import rehearsal

    with pretended(generation):
        with rehearsal() as found:
            launch()
        asked = [one for one in found if re.search(kernels, one.name)]
        return [
            _measured(one.name, getattr(import_module(one.module), one.name).preload(one.data))
            for one in asked
        ]


def _measured(name: str, kernel: Any) -> Compiled:
    registers, spilled = _usage(kernel.asm["cubin"])
    metadata = kernel.metadata
    return Compiled(
        name,
        _constants(kernel.src),
        metadata.num_warps,
        metadata.shared,
        registers,
        spilled,
        getattr(metadata, "tmem_size", None) or 0,
    )


def _constants(source: Any) -> str:
    names = source.fn.arg_names
    values = {names[path[0]]: value for path, value in source.constants.items()}
    told = ("ROWS", "TILE", "RANK", "SLICES", "FEATURES", "STAGES", "COLUMNS", "KEY_DIM", "WINDOW")
    return " ".join(f"{name.lower()}={values[name]}" for name in told if name in values)


def _usage(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of stack of a thread."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "-res-usage", file.name]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", told)
    assert found is not None, told
    return int(found[1]), int(found[2])


def sweep(generation: GPU) -> list[Compiled]:
    """Everything, for one GPU; in a process that interprets nothing."""
    return compiled(generation, launch_everything)


def compiles() -> None:
    import os

    os.environ["TRITON_INTERPRET"] = "0"


def main() -> None:
    too_large = 0
    spawn = get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawn, initializer=compiles) as processes:
        results = processes.map(sweep, GENERATIONS.values())
        for (name, generation), kernels in zip(GENERATIONS.items(), results, strict=True):
            print(f"{name}, {generation}: {len(kernels)} kernels")
            for kernel in kernels:
                fits = kernel.fits(generation)
                too_large += not fits
                print("  " if fits else "! ", kernel, f"{kernel.programs(generation)} at once")
    sys.exit(too_large > 0)


if __name__ == "__main__":
    main()
