"""From the path of a LoRA request to a directory on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from loramux.errors import AdapterNotFoundError, AdapterUnavailableError
from loramux.lora.adapter import LocalCheckpoint, SourceRevision
from loramux.lora.hub import HubPath, find_on_hub
from loramux.lora.request import LoRARequest
from loramux.lora.untrusted import shown

CHECKPOINT_FILES = ("adapter_config.json", "adapter_model.safetensors")


def locate(request: LoRARequest) -> LocalCheckpoint:
    """Find the checkpoint a request names, downloading it from the Hub where it is an id there.

    Raises:
        AdapterNotFoundError: the path is neither a checkpoint directory nor a repository id.
        AdapterUnavailableError: the Hub or the storage could not answer.
    """
    path = os.path.expanduser(request.lora_path)
    # os.path.isdir says no to a path that no system would take; Path.is_dir raises for some.
    directory = Path(path) if os.path.isdir(path) else _from_hub(request)
    try:
        return LocalCheckpoint(directory.resolve(), _revision(directory), request.base_model_name)
    except OSError as error:
        raise AdapterUnavailableError(
            f"Adapter {request.lora_name!r} in {directory} cannot be read ({error.strerror}); "
            "check its storage and try again."
        ) from error


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
            f"No adapter found for {shown(request.lora_path)}: it is neither a directory nor a "
            f"Hugging Face repository id; check the path of adapter {request.lora_name!r}."
        )
    try:
        return find_on_hub(path).fetch(Path(), lambda done, total: None)
    except AdapterNotFoundError as error:
        raise AdapterNotFoundError(
            f"No adapter found for {request.lora_path}: it is no directory here, and {error}"
        ) from error
