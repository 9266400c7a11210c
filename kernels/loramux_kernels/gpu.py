"""What a GPU has of what the kernels ask for, and whether it can run them at all."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import torch

MIN_CAPABILITY = (8, 0)
"""Ampere's: bfloat16, and copies into shared memory that go on while something is computed."""
HOPPER = (9, 0)
RESERVED = 1 << 10
"""Bytes of shared memory that the hardware takes for each program, from Ampere on."""


@dataclass(frozen=True)
class GPU:
    """Hardware and limits of one kind of GPU.

    Attributes:
        capability: its compute capability.
        shared_bytes: shared memory of a multiprocessor.
        programmatic_launch: whether kernels may begin before the ones ahead of them have ended.
    """

    capability: tuple[int, int]
    shared_bytes: int
    programmatic_launch: bool

    def bytes_of_each(self, programs: int) -> int:
        """Shared memory of each of so many programs that a multiprocessor runs at a time."""
        return self.shared_bytes // programs - RESERVED

    @property
    def program_bytes(self) -> int:
        """Shared memory that one program can have at most."""
        return self.bytes_of_each(1)

    @property
    def has_async_products(self) -> bool:
        """Products of 64 rows and more read shared memory on their own (wgmma, tcgen05)."""
        return self.capability[0] in {9, 10, 11}

    @property
    def has_tensor_memory(self) -> bool:
        """Products of 64 rows and more have a memory of their own for what they sum."""
        return self.capability[0] in {10, 11}


INTERPRETER = GPU(HOPPER, 228 << 10, programmatic_launch=False)
"""Triton's, on a CPU: it has no limits, and tests of it are to run the tiles of Hopper."""


def gpu_of(device: torch.device) -> GPU:
    """The GPU that a device is."""
    return _read(device) if device.type == "cuda" else INTERPRETER


def unserved_device(device: torch.device) -> str | None:
    """Why the kernels cannot run there, as a clause; None where they can."""
    if device.type != "cuda":
        return f"{device} is no CUDA GPU"
    if find_spec("triton") is None:
        return "Triton is not installed"
    capability = gpu_of(device).capability
    if capability < MIN_CAPABILITY:
        return f"the GPU's compute capability is {'.'.join(map(str, capability))}, less than 8.0"
    return None


@cache
def runs_kernels(device: torch.device) -> bool:
    """Whether the kernels can run there; torch's references compute the same elsewhere."""
    return unserved_device(device) is None


@cache
def _read(device: torch.device) -> GPU:
    has = torch.cuda.get_device_properties(device)
    capability = has.major, has.minor
    return GPU(capability, has.shared_memory_per_multiprocessor, capability >= HOPPER)
