"""Reads adapters in other processes as long as there are any, and else here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import torch

from loramux import env
from loramux.logger import get_logger
from loramux.lora.checkpoint.pairing import BaseParameter
from loramux.lora.checkpoint.reader import read_adapter
from loramux.lora.read_process.messages import NotReadError, ReadRequest, is_supported
from loramux.lora.read_process.process import ReadProcess
from loramux.lora.site import LoRASite
from loramux.lora.weights import AdapterWeights

log = get_logger(__name__)


def num_read_processes(device: torch.device) -> int:
    """``LORAMUX_READ_PROCESSES``, or one for an engine on a GPU and none on a CPU.

    Raises:
        EnvironmentVariableError: the variable holds no number.
    """
    count = env.read_int("LORAMUX_READ_PROCESSES", int(device.type == "cuda"))
    if count and not is_supported():
        log.warning("this system has no memory to share; adapters are read in the engine's process")
        return 0
    return count


class AdapterReader:
    """``read_adapter`` in processes of their own, whose work holds up no thread of this one.

    Args:
        num_processes: none reads everything here.
    """

    def __init__(self, num_processes: int) -> None:
        self._processes: list[ReadProcess] = []
        try:
            for _ in range(num_processes):
                self._processes.append(ReadProcess())
        except OSError as error:
            log.error("no process for reading adapters can be started (%s)", error)

    def serve(self, sites: Mapping[str, LoRASite]) -> None:
        """Say which layers adapters may target, once, before anything is read."""
        self._sites = sites
        for process in self._processes:
            process.serve(list(sites.values()))

    def read(
        self,
        path: str | Path,
        *,
        max_rank: int,
        base_names: Collection[str] | None,
        max_bytes: int,
        allowed_directories: tuple[str, ...] = (),
        base_parameter: BaseParameter | None = None,
    ) -> AdapterWeights:
        """Read and check one adapter; arguments and errors are those of ``read_adapter``."""
        names = None if base_names is None else tuple(base_names)
        request = ReadRequest(str(path), max_rank, names, max_bytes, allowed_directories)
        if self._processes:
            try:
                return min(self._processes, key=lambda p: p.num_reading).read(request)
            except NotReadError as error:
                log.info("%s is read in the engine's process: %s", path, error)
        return read_adapter(
            path,
            self._sites,
            max_rank=max_rank,
            base_names=base_names,
            max_bytes=max_bytes,
            allowed_directories=allowed_directories,
            base_parameter=base_parameter,
        )

    def wait_until_ready(self, seconds: float) -> bool:
        """Whether every process can read within so many seconds each."""
        return all(process.wait_until_ready(seconds) for process in self._processes)

    def shutdown(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.shutdown()
