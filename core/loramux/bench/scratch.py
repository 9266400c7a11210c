"""A place for models and adapters that are gone afterwards."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loramux.bench.random_model import ModelShape, compute_dtype
from loramux.bench.settings import Settings

MEMORY = Path("/dev/shm")

BFLOAT16_BYTES = 2


def model_bytes(settings: Settings, shape: ModelShape) -> int:
    """What the model's weights take on disk, the embedding among them."""
    if settings.load_format == "dummy":
        return 0
    embedding = shape.vocab_size * shape.hidden_size
    return (shape.num_weights_per_step + embedding) * compute_dtype().itemsize


def adapter_bytes(shape: ModelShape, rank: int) -> int:
    """What an adapter takes on disk, and on a GPU."""
    return BFLOAT16_BYTES * shape.num_adapter_weights(rank)


@contextmanager
def scratch_directory(given: Path | None, num_bytes: int) -> Iterator[Path]:
    """A new directory below ``given``, else in memory if so many bytes take half of what is free.

    Files in memory are what files in the page cache are, and cannot be pushed out of it.
    """
    parent = given
    if parent is None and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 2 * num_bytes:
        parent = MEMORY
    with tempfile.TemporaryDirectory(prefix="loramux-bench-", dir=parent) as directory:
        yield Path(directory)
