"""The device an engine runs on."""

from __future__ import annotations

import re

import torch

from loramux.errors import InvalidRequestError


def choose_device(name: str) -> torch.device:
    """Device an engine runs on: the first GPU where ``auto`` finds one, else the CPU.

    Raises:
        InvalidRequestError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise InvalidRequestError(
            f"device must be auto, cpu, cuda or cuda:N, got {name!r}.", "device"
        )
    device = torch.device("cuda:0" if name == "cuda" else name)
    if device.type == "cuda" and device.index >= torch.cuda.device_count():
        raise InvalidRequestError(
            f"device {name!r} was asked for, but torch finds {torch.cuda.device_count()} CUDA "
            "GPUs here; name one that is there or use device='cpu'.",
            "device",
        )
    return device
