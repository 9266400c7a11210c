"""Copies between host and device that do not stall the stream they are issued on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def to_device(
    values: Sequence[int] | Sequence[float] | Tensor, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """``values`` on ``device``; from pinned memory on CUDA, so that the host does not wait."""
    host = torch.as_tensor(values, dtype=dtype)
    if device.type != "cuda":
        return host.to(device)
    return host.pin_memory().to(device, non_blocking=True)


class HostCopy:
    """Tensors on their way to the host; made without waiting for the device."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        on_device = [tensor for tensor in tensors if tensor.is_cuda]
        self._copies = [_start_copy(tensor) for tensor in tensors]
        self._event: torch.cuda.Event | None = None
        if on_device:
            self._event = torch.cuda.current_stream(on_device[0].device).record_event()

    def wait(self) -> list[Tensor]:
        """The tensors on the host, once the device is done with them."""
        if self._event is not None:
            self._event.synchronize()
        return self._copies


def _start_copy(tensor: Tensor) -> Tensor:
    if not tensor.is_cuda:
        return tensor
    host = torch.empty_like(tensor, device="cpu", pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """All ``tensors`` on the host after a single wait."""
    return HostCopy(tensors).wait()
