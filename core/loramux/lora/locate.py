"""From the path of a LoRA request to a directory on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from loramux.errors import AdapterNotFoundError
from loramux.lora.adapter import LocalCheckpoint, SourceRevision
from loramux.lora.hub import HubPath, find_on_hub
from loramux.lora.request import LoRARequest

CHECKPOINT_FILES = ("adapter_config.json", "adapter_model.safetensors")


def locate(request: LoRARequest) -> LocalCheckpoint:
    """Find the checkpoint a request names, downloading it from the Hub where it is an id there.

    Raises:
        AdapterNotFoundError: the path is neither a checkpoint directory nor a repository id.
        AdapterUnavailableError: the Hub could not answer.
    """
    directory = Path(request.lora_path).expanduser()
    if not directory.is_dir():
        directory = _from_hub(request)
    return LocalCheckpoint(directory.resolve(), _revision(directory), request.base_model_name)


def _revision(directory: Path) -> SourceRevision:
    files = []
    for name in CHECKPOINT_FILES:
        try:
            status = os.stat(directory / name)
        except FileNotFoundError:
            continue  # the reader refuses it, naming the file
        files.append((name, status.st_ino, status.st_size, status.st_mtime_ns))
    return SourceRevision(tuple(files))


def _from_hub(request: LoRARequest) -> Path:
    path = HubPath.parse(request.lora_path)
    if path is None:
        raise AdapterNotFoundError(
            f"No adapter found for {request.lora_path}: it is neither a directory nor a Hugging "
            f"Face repository id; check the path of adapter {request.lora_name!r}."
        )
    try:
        return find_on_hub(path).fetch(Path(), lambda done, total: None)
    except AdapterNotFoundError as error:
        raise AdapterNotFoundError(
            f"No adapter found for {request.lora_path}: it is no directory here, and {error}"
        ) from error
