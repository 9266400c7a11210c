"""What of an engine gets ready by itself while Python imports and weights are read."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import dataclass

import torch

from loramux.engine.args import EngineArgs
from loramux.engine.running.kernel_compiler import KernelCompiler, start_compiler
from loramux.logger import get_logger
from loramux.lora.read_process.reader import AdapterReader, num_read_processes
from loramux.models.device import choose_device

log = get_logger(__name__)


@dataclass(frozen=True, eq=False)
class HeadStart:
    """What gets ready beside the imports and the weights.

    Args:
        device: of the engine, on which a context is being made.
        compiler: of kernels, None where there are none.
        reader: of adapters, None without LoRA.
    """

    device: torch.device
    compiler: KernelCompiler | None
    reader: AdapterReader | None

    @classmethod
    def begin(cls, args: EngineArgs, on_failure: ExitStack) -> HeadStart:
        """Begin all of it; ``on_failure`` ends it, if the engine does not come to be.

        Raises:
            InvalidRequestError: there is no such device.
            EnvironmentVariableError: the number of processes that read adapters is none.
        """
        device = choose_device(args.device)
        reader = None
        if args.enable_lora:
            reader = AdapterReader(num_read_processes(device))
            on_failure.callback(reader.shutdown)
        compiler = start_compiler(device, on_failure)
        if device.type == "cuda":
            threading.Thread(target=_open, args=(device,), name="loramux-device").start()
        return cls(device, compiler, reader)


def _open(device: torch.device) -> None:
    """Make the device's context, which takes the driver a while.

    Whoever uses the device next waits for that, or fails as this did.
    """
    try:
        torch.zeros(1, device=device)
    except Exception as error:
        log.debug("the device %s cannot be opened: %s", device, error)
