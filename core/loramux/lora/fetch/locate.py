"""From the path of a LoRA request to a directory on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from loramux.errors import AdapterError, AdapterNotFoundError, AdapterUnavailableError
from loramux.lora.checkpoint.untrusted import shown
from loramux.lora.fetch.origin import (
    CheckpointOrigin,
    LocalCheckpoint,
    RemoteCheckpoint,
    SourceRevision,
)
from loramux.lora.hub.source import HubPath, HubSource, find_on_hub
from loramux.lora.local_path import expanded, is_directory
from loramux.lora.request import LoRARequest

CHECKPOINT_FILES = ("adapter_config.json", "adapter_model.safetensors")


def locate(request: LoRARequest) -> CheckpointOrigin:
    """Find the checkpoint a request names: its own source, a directory, or an id on the Hub.

    Raises:
        AdapterNotFoundError: the path is neither a checkpoint directory nor a repository id.
        AdapterUnavailableError: the Hub or the storage could not answer.
    """
    if request.source is not None:
        return RemoteCheckpoint(request.source, request.base_model_name)
    if not is_directory(request.lora_path):
        return RemoteCheckpoint(_on_hub(request), request.base_model_name)
    directory = Path(expanded(request.lora_path))
    try:
        return LocalCheckpoint(
            directory.resolve(),
            _revision(directory),
            request.base_model_name,
            request.allowed_directories,
        )
    except OSError as error:
        raise AdapterUnavailableError(
            f"Adapter {request.lora_name!r} in {directory} cannot be read ({error.strerror}); "
            "check its storage and try again.",
            f"its directory cannot be read ({error.strerror}); check its storage and try again.",
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


def _on_hub(request: LoRARequest) -> HubSource:
    path = HubPath.parse(request.lora_path)
    if request.lora_path.startswith(("/", ".", "~")) or (path and _is_below_directory(path)):
        raise AdapterNotFoundError(
            f"No adapter found for {shown(request.lora_path)}: there is no such directory; "
            f"check the path of adapter {request.lora_name!r}.",
            "there is no such directory; check its path.",
        )
    if path is None:
        raise AdapterNotFoundError(
            f"No adapter found for {shown(request.lora_path)}: it is neither a directory nor a "
            f"Hugging Face repository id; check the path of adapter {request.lora_name!r}.",
            "its path is neither a directory nor a Hugging Face repository id; check it.",
        )
    try:
        return find_on_hub(path)
    except AdapterNotFoundError as error:
        raise AdapterNotFoundError(
            f"No adapter found for {request.lora_path}: it is no directory here, and "
            f"{_continued(error)}",
            error.reason,
        ) from error
    except AdapterUnavailableError as error:
        raise AdapterUnavailableError(
            f"{request.lora_path} is no directory here, and {_continued(error)}", error.reason
        ) from error


def _is_below_directory(path: HubPath) -> bool:
    """Whether what may be ``org/repo/directory`` begins with a directory of this machine.

    As ``org/repo`` alone it would be that one's, and not the Hub's.
    """
    return bool(path.subpath) and path.revision is None and is_directory(path.repo_id)


def _continued(error: AdapterError) -> str:
    """The Hub's refusal as the second half of a sentence."""
    sentence = str(error)
    return f"the{sentence[3:]}" if sentence.startswith("The ") else sentence
