"""An adapter's tensors, built from the very bytes that are hashed: the file is read once."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import torch
from blake3 import blake3

from loramux.errors import AdapterRefusedError
from loramux.lora.checkpoint.finite import FloatRuns, holds_non_finite
from loramux.lora.checkpoint.host_buffer import Allocate, host_buffer
from loramux.lora.checkpoint.pieces import FileShortenedError, Pieces, reading_pieces
from loramux.lora.checkpoint.regular_file import open_regular
from loramux.lora.checkpoint.safetensors_header import (
    PREFIX_BYTES,
    TensorEntry,
    header_length,
    parse_header,
)

SAFETENSORS_NAME = "adapter_model.safetensors"
PICKLE_NAME = "adapter_model.bin"

MAX_EARLY_BYTES = 2**28
"""Of a file that is read while its names and shapes are still being checked."""


@dataclass(frozen=True, eq=False)
class TensorFile:
    """One file in memory and the tensors in it, which may be views of its bytes.

    Args:
        hashes: BLAKE3 of the file's header, then of each piece of what follows, see
            :data:`PIECE_BYTES`.
        non_finite: names of the tensors that hold an infinity or a NaN.
    """

    hashes: bytes
    tensors: Mapping[str, torch.Tensor]
    non_finite: Collection[str]

    def digest(self, identity: bytes) -> str:
        """Return the BLAKE3 (hex) over an identity without zero bytes, a zero byte and ``hashes``.

        So it is a tree of hashes over the identity and every byte of the file, the same whatever
        machine and however many threads computed it. A core computes BLAKE3 at 4.5 GB/s where it
        has AVX-512, and SHA-256, which took most of the time that reading takes, at 1.8.
        """
        return blake3(identity + b"\0" + self.hashes).hexdigest()


class OpenTensorFile:
    """A safetensors file of which the header has been read and checked, and nothing else.

    Attributes:
        entries: the tensors that the header describes, by name.
    """

    def __init__(self, file: io.BufferedReader, name: str, max_bytes: int) -> None:
        self._file = file
        self._name = name
        self._size = _checked_size(file, name, max_bytes)
        self._prefix = file.read(PREFIX_BYTES)
        self._header = file.read(header_length(self._prefix, self._size))
        self.entries = parse_header(self._header, self._size)

    @contextmanager
    def reading(self, allocate: Allocate = host_buffer) -> Iterator[Callable[[], TensorFile]]:
        """Begin to read the tensors into memory that ``allocate`` gives.

        A file above ``MAX_EARLY_BYTES`` waits until it is wanted, because it may yet be refused.

        Yields a function that returns them when they are there, or raises:
            AdapterRefusedError: if the file has become shorter.
            OSError: if reading fails.
        """
        if self._size > MAX_EARLY_BYTES:
            yield partial(self._read, allocate)
            return
        with self._pieces(allocate) as pieces:
            yield lambda: self._described(pieces)

    def _read(self, allocate: Allocate) -> TensorFile:
        with self._pieces(allocate) as pieces:
            return self._described(pieces)

    @property
    def _origin(self) -> int:
        return PREFIX_BYTES + len(self._header)

    def _pieces(self, allocate: Allocate) -> AbstractContextManager[Callable[[], Pieces]]:
        inspect = FloatRuns.of(self.entries.values(), self._origin).may_hold_non_finite
        size, descriptor = self._size - self._origin, self._file.fileno()
        return reading_pieces(descriptor, self._origin, size, inspect, allocate)

    def _described(self, reading: Callable[[], Pieces]) -> TensorFile:
        pieces, origin = _whole(reading, self._name), self._origin
        return TensorFile(
            hashes=blake3(self._prefix + self._header).digest() + pieces.hashes,
            tensors=_views(torch.from_numpy(pieces.content), self.entries, origin),
            non_finite=_non_finite(pieces, self.entries, origin),
        )


@contextmanager
def open_safetensors(
    path: Path, max_bytes: int, *, follow_links: bool = True
) -> Iterator[OpenTensorFile]:
    """Open a safetensors file of at most ``max_bytes``; see ``open_regular`` for links.

    Raises:
        AdapterRefusedError: if it is no file, too large or breaks the format.
        OSError: if reading fails.
    """
    with open_regular(path, follow_links=follow_links) as file:
        yield OpenTensorFile(file, SAFETENSORS_NAME, max_bytes)


def _checked_size(file: io.BufferedReader, name: str, max_bytes: int) -> int:
    size = os.fstat(file.fileno()).st_size
    if size > max_bytes:
        raise AdapterRefusedError(
            f"{name} has {size} bytes, more than the {max_bytes} allowed; "
            "raise the limit on adapters or use a lower rank."
        )
    return size


def _whole(pieces: Callable[[], Pieces], name: str) -> Pieces:
    try:
        return pieces()
    except FileShortenedError as error:
        raise AdapterRefusedError(
            f"{name} became shorter while it was read; fetch it again."
        ) from error


def _views(
    content: torch.Tensor, entries: Mapping[str, TensorEntry], origin: int
) -> dict[str, torch.Tensor]:
    """The tensors as views of the content, which begins at ``origin`` of the file."""
    typed = {dtype: _as_type(content, dtype) for dtype in {e.dtype for e in entries.values()}}
    tensors = {}
    for name, (dtype, shape, start, end) in entries.items():
        offset, rest = divmod(start - origin, dtype.itemsize)
        if rest:  # the format does not promise alignment, torch needs it
            copy = content[start - origin : end - origin].clone()
            tensors[name] = copy.view(dtype).view(shape)
        else:
            tensors[name] = typed[dtype].as_strided(shape, _strides(shape), offset)
    return tensors


def _as_type(content: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The content as far as it is whole numbers of a type."""
    return content[: content.numel() // dtype.itemsize * dtype.itemsize].view(dtype)


@lru_cache(maxsize=256)  # a checkpoint has few shapes, each many times
def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of a contiguous tensor."""
    return tuple(math.prod(shape[position + 1 :]) for position in range(len(shape)))


def _non_finite(pieces: Pieces, entries: Mapping[str, TensorEntry], origin: int) -> set[str]:
    """The tensors that hold an infinity or a NaN; they lie at least partly in suspicious pieces."""
    if not pieces.suspicious:
        return set()
    return {
        name
        for name, entry in entries.items()
        if pieces.is_suspicious(entry.start - origin, entry.end - origin)
        and holds_non_finite(pieces.content[entry.start - origin : entry.end - origin], entry.dtype)
    }
