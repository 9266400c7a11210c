"""An adapter's tensors, built from the very bytes that are hashed: the file is read once."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from loramux.errors import AdapterRefusedError
from loramux.lora.checkpoint.safetensors_header import (
    PREFIX_BYTES,
    TensorEntry,
    header_length,
    parse_header,
)

SAFETENSORS_NAME = "adapter_model.safetensors"
PICKLE_NAME = "adapter_model.bin"


@dataclass(frozen=True, eq=False)
class TensorFile:
    """One file in memory and the tensors in it, which may be views of its bytes."""

    content: torch.Tensor
    tensors: Mapping[str, torch.Tensor]

    def digest(self, identity: bytes) -> str:
        """Return the SHA-256 (hex) over an identity and the bytes of the file."""
        digest = hashlib.sha256(identity + b"\0")
        digest.update(self.content.numpy().data)
        return digest.hexdigest()


def read_safetensors(path: Path, max_bytes: int) -> TensorFile:
    """Read a safetensors file of at most ``max_bytes``.

    Raises:
        AdapterRefusedError: if the file is too large or breaks the format.
        OSError: if reading fails.
    """
    with path.open("rb") as file:
        size = _checked_size(file, path.name, max_bytes)
        prefix = file.read(PREFIX_BYTES)
        header = file.read(header_length(prefix, size))
        entries = parse_header(header, size)
        content = _read(file, path.name, size, read_before=prefix + header)
    return TensorFile(content, {name: _view(content, entry) for name, entry in entries.items()})


def read_pickle(path: Path, max_bytes: int) -> TensorFile:
    """Read a file of ``torch.save`` with at most ``max_bytes``, without running code from it.

    Raises:
        AdapterRefusedError: if the file is too large or holds anything but named dense tensors.
        OSError: if reading fails.
    """
    with path.open("rb") as file:
        size = _checked_size(file, path.name, max_bytes)
        content = _read(file, path.name, size, read_before=b"")
    try:
        values = torch.load(io.BytesIO(content.numpy().data), map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises whatever the bytes lead it to
        raise AdapterRefusedError(
            f"{path.name} cannot be read as plain tensors ({type(error).__name__}); "
            f"convert it to {SAFETENSORS_NAME}."
        ) from error
    return TensorFile(content, _plain_tensors(values, path.name, max_bytes))


def _plain_tensors(values: object, name: str, max_bytes: int) -> dict[str, torch.Tensor]:
    if not isinstance(values, dict) or not all(
        isinstance(key, str) and _is_plain(value) for key, value in values.items()
    ):
        raise AdapterRefusedError(
            f"{name} must hold an object of named dense floating-point tensors and nothing else; "
            f"convert it to {SAFETENSORS_NAME}."
        )
    # A stored tensor may repeat its elements by strides, so its size is not bounded by the file.
    if sum(tensor.nbytes for tensor in values.values()) > max_bytes:
        raise AdapterRefusedError(
            f"{name} holds tensors of more than {max_bytes} bytes; raise the limit on adapters."
        )
    return {key: tensor.detach().contiguous() for key, tensor in values.items()}


def _is_plain(value: object) -> bool:
    return (
        isinstance(value, torch.Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and value.dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    )


def _checked_size(file: io.BufferedReader, name: str, max_bytes: int) -> int:
    size = os.fstat(file.fileno()).st_size
    if size > max_bytes:
        raise AdapterRefusedError(
            f"{name} has {size} bytes, more than the {max_bytes} allowed; "
            "raise the limit on adapters or use a lower rank."
        )
    return size


def _read(file: io.BufferedReader, name: str, size: int, *, read_before: bytes) -> torch.Tensor:
    """Read the rest of a file behind what was read before, into one buffer of the whole."""
    content = torch.empty(size, dtype=torch.uint8)
    memory = content.numpy().data
    memory[: len(read_before)] = read_before
    count = file.readinto(memory[len(read_before) :])
    if count != size - len(read_before):
        raise AdapterRefusedError(f"{name} became shorter while it was read; fetch it again.")
    return content


def _view(content: torch.Tensor, entry: TensorEntry) -> torch.Tensor:
    part = content[entry.start : entry.end]
    if entry.start % entry.dtype.itemsize:
        part = part.clone()  # the format does not promise alignment, torch needs it
    return part.view(entry.dtype).view(entry.shape)
