"""The header of a safetensors file, checked before anything it asks for is allocated.

The format (github.com/huggingface/safetensors): eight bytes with the length of the header as a
little-endian integer, the header as a JSON object, then the tensors one after another without gaps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from loramux.errors import AdapterRefusedError
from loramux.lora.checkpoint.untrusted import parse_object, shown

PREFIX_BYTES = 8
MAX_HEADER_BYTES = 4 * 2**20
"""Sixteen times what every linear layer of the largest dense models takes, and far below the
format's 100 MB: parsing holds Python's lock for 20 ms a megabyte."""

_BYTES_FOR_EACH_BRACKET = 8
"""Fewer, and parsed JSON takes thirty times the room of its text; a tensor takes 18 at least."""

_FIELDS = frozenset({"dtype", "shape", "data_offsets"})
_MAX_DIMENSIONS = 8
_REMEMBERED = 8
_MAX_REMEMBERED_BYTES = 2**18
"""Adapters of one trainer, rank and choice of layers have one header, which is parsed once."""
_INTEGERS = frozenset({int})
"""JSON's integers are of just this type; its booleans, which Python counts in, are not."""
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


class TensorEntry(NamedTuple):
    """One tensor of the file, as quick to make as hundreds of them ask for.

    Attributes:
        start: offset of its first byte from the start of the file.
        end: offset after its last byte.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


def header_length(prefix: bytes, file_bytes: int) -> int:
    """Return the length of the JSON header that the first eight bytes announce.

    Raises:
        AdapterRefusedError: if the file cannot hold such a header, or if it is too long.
    """
    length = int.from_bytes(prefix, "little")
    if len(prefix) < PREFIX_BYTES or length > file_bytes - PREFIX_BYTES:
        raise _refused(f"is truncated at {file_bytes} bytes, inside its header")
    if length > MAX_HEADER_BYTES:
        raise _refused(f"has a header of {length} bytes, more than {MAX_HEADER_BYTES}")
    return length


def parse_header(header: bytes, file_bytes: int) -> Mapping[str, TensorEntry]:
    """Check a JSON header against the size of its file and return the tensors, in file order.

    Raises:
        AdapterRefusedError: if an entry is malformed, has a type that LoRA tensors cannot have, or
            if the tensors do not fill the file exactly, without gap or overlap.
    """
    parse = _parse_once if len(header) <= _MAX_REMEMBERED_BYTES else _parse
    return parse(header, file_bytes)


def _parse(header: bytes, file_bytes: int) -> Mapping[str, TensorEntry]:
    if header.count(b"{") + header.count(b"[") > 3 + len(header) // _BYTES_FOR_EACH_BRACKET:
        raise _refused("has more brackets in its header than tensors have")
    values = parse_object(header, "adapter_model.safetensors: the header")
    _check_metadata(values.pop("__metadata__", None))
    data_start = PREFIX_BYTES + len(header)
    entries = {name: _entry(name, value, data_start) for name, value in values.items()}
    ordered = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)))
    _check_contiguous(ordered, data_start, file_bytes)
    return MappingProxyType(ordered)


_parse_once = lru_cache(maxsize=_REMEMBERED)(_parse)


def _check_metadata(metadata: Any) -> None:
    if metadata is None:
        return
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _refused("has metadata that is no object of strings")


def _entry(name: str, value: Any, data_start: int) -> TensorEntry:
    if not isinstance(value, dict) or value.keys() != _FIELDS:
        raise _refused(f"describes tensor {shown(name)} without exactly dtype, shape and offsets")
    dtype = _DTYPES.get(value["dtype"]) if isinstance(value["dtype"], str) else None
    if dtype is None:
        raise _refused(
            f"holds tensor {shown(name)} of type {shown(value['dtype'])}, "
            f"which is none of {', '.join(_DTYPES)}"
        )
    shape, offsets = value["shape"], value["data_offsets"]
    if not _is_sizes(shape) or len(shape) > _MAX_DIMENSIONS:
        raise _refused(f"gives tensor {shown(name)} the impossible shape {shown(shape)}")
    if 0 in shape:
        raise AdapterRefusedError(
            f"adapter_model.safetensors holds the empty tensor {shown(name)}; gather sharded "
            "parameters (DeepSpeed ZeRO-3, FSDP) before save_pretrained and save it again."
        )
    if not _is_sizes(offsets) or len(offsets) != 2:
        raise _refused(f"gives tensor {shown(name)} the impossible offsets {shown(offsets)}")
    start, end = offsets
    if end - start != math.prod(shape) * dtype.itemsize:
        raise _refused(
            f"gives tensor {shown(name)} {shown(end - start)} bytes, "
            f"which is not what its shape {shown(shape)} takes"
        )
    return TensorEntry(dtype, tuple(shape), data_start + start, data_start + end)


def _is_sizes(value: Any) -> bool:
    if not isinstance(value, list) or not _INTEGERS.issuperset(map(type, value)):
        return False
    return not value or (min(value) >= 0 and max(value) < 2**63)


def _check_contiguous(ordered: Mapping[str, TensorEntry], data_start: int, file_bytes: int) -> None:
    position = data_start
    for name, entry in ordered.items():
        if entry.start != position:
            raise _refused(f"has a gap or an overlap before tensor {shown(name)}")
        position = entry.end
    if position > file_bytes:
        raise _refused(f"is truncated at {file_bytes} bytes, where its tensors take {position}")
    if position < file_bytes:
        raise _refused(f"has {file_bytes - position} bytes that belong to no tensor")


def _refused(problem: str) -> AdapterRefusedError:
    return AdapterRefusedError(f"adapter_model.safetensors {problem}; save or fetch it again.")
