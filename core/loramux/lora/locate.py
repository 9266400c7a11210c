"""From the path of a LoRA request to a directory on this machine."""

from __future__ import annotations

import os
import re
from pathlib import Path

from loramux.errors import AdapterNotFoundError, AdapterUnavailableError
from loramux.lora.adapter import LocalCheckpoint, SourceRevision
from loramux.lora.request import LoRARequest

CHECKPOINT_FILES = ("adapter_config.json", "adapter_model.safetensors")

_REPOSITORY_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


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
    if not _REPOSITORY_ID.fullmatch(request.lora_path):
        raise AdapterNotFoundError(
            f"No adapter found for {request.lora_path}: it is neither a directory nor a Hugging "
            f"Face repository id; check the path of adapter {request.lora_name!r}."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(request.lora_path, allow_patterns=list(CHECKPOINT_FILES)))
    except LocalEntryNotFoundError as error:
        raise AdapterUnavailableError(
            f"Adapter {request.lora_name!r} could not be fetched: the Hugging Face Hub does not "
            f"answer and {request.lora_path} is not in the local cache; try again later."
        ) from error
    except HfHubHTTPError as error:
        raise AdapterNotFoundError(
            f"No adapter found for {request.lora_path}: it is no directory here, and the Hugging "
            f"Face Hub answers: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
