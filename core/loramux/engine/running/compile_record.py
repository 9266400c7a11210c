"""That the kernels of an engine like this one were compiled before, told by a file beside them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import torch

import loramux
import loramux_kernels
from loramux.engine.args import EngineArgs
from loramux.models.loader import LoadedModel

LIBRARIES = ("torch", "triton", "transformers")


def compile_record(args: EngineArgs, loaded: LoadedModel, max_model_len: int) -> Path:
    """The file that is there once Triton's cache holds every kernel of such an engine.

    Its name is a digest of all that decides which kernels an engine launches and what is compiled
    for them, so it speaks of nothing else. It lies in the cache, and goes when that does.
    """
    from triton import knobs

    digest = hashlib.sha256()
    for part in _deciding(args, loaded, max_model_len):
        digest.update(hashlib.sha256(part).digest())
    return Path(knobs.cache.dir) / "loramux-engines" / digest.hexdigest()


def _deciding(args: EngineArgs, loaded: LoadedModel, max_model_len: int) -> Iterator[bytes]:
    yield from _sources()
    yield repr((args, max_model_len, loaded.dtype, loaded.kv_shapes)).encode()
    yield loaded.config.to_json_string().encode()
    yield repr([version(library) for library in LIBRARIES]).encode()
    yield repr(sorted(item for item in os.environ.items() if item[0].startswith("TRITON"))).encode()
    if loaded.device.type == "cuda":
        gpu = torch.cuda.get_device_properties(loaded.device)
        what = gpu.name, gpu.major, gpu.minor, gpu.multi_processor_count, gpu.total_memory
        yield repr(what).encode()


def _sources() -> Iterator[bytes]:
    """The names and texts of all modules here: 1.6 MB, hashed in 15 ms."""
    for package in (loramux, loramux_kernels):
        for directory in package.__path__:
            for file in sorted(Path(directory).rglob("*.py")):
                yield str(file.relative_to(directory)).encode()
                yield file.read_bytes()
