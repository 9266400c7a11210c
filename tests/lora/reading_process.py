"""Reading adapters of the tiny models in processes, which tests share."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from loramux.lora.checkpoint.pairing import BaseParameter
from loramux.lora.checkpoint.reader import read_adapter
from loramux.lora.read_process.messages import NotReadError, ReadRequest
from loramux.lora.read_process.process import ReadProcess
from loramux.lora.site import LoRASite
from loramux.lora.size_limit import DEFAULT_MAX_BYTES
from loramux.lora.weights import AdapterWeights

START_SECONDS = 120


@contextmanager
def read_process(sites: Mapping[str, LoRASite]) -> Iterator[ReadProcess]:
    """A process that is ready."""
    process = ReadProcess()
    try:
        process.serve(list(sites.values()))
        assert process.wait_until_ready(START_SECONDS)
        yield process
    finally:
        process.shutdown()


def read_there(
    process: ReadProcess,
    path: str | Path,
    *,
    max_rank: int = 64,
    base_names: Collection[str] | None = None,
    max_bytes: int = DEFAULT_MAX_BYTES,
    allowed_directories: tuple[str, ...] = (),
) -> AdapterWeights:
    """``read_adapter`` in the process and nowhere else."""
    names = None if base_names is None else tuple(base_names)
    return process.read(ReadRequest(str(path), max_rank, names, max_bytes, allowed_directories))


class ProcessReading:
    """Stands in for ``read_adapter``: one process for each model's sites."""

    def __init__(self) -> None:
        self._processes: dict[tuple[str, ...], ReadProcess] = {}

    def __call__(
        self,
        path: str | Path,
        sites: Mapping[str, LoRASite],
        base_parameter: BaseParameter | None = None,
        **options: object,
    ) -> AdapterWeights:
        """Only what needs the base model may be left to this process."""
        try:
            return read_there(self._process(sites), path, **options)
        except NotReadError as error:
            if "copies of base weights" not in str(error):
                raise
        return read_adapter(path, sites, base_parameter=base_parameter, **options)

    def shutdown(self) -> None:
        for process in self._processes.values():
            process.shutdown()

    def _process(self, sites: Mapping[str, LoRASite]) -> ReadProcess:
        process = self._processes.get(tuple(sites))
        if process is None:
            process = self._processes[tuple(sites)] = ReadProcess()
            process.serve(list(sites.values()))
            assert process.wait_until_ready(START_SECONDS)
        return process
