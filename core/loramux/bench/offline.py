"""Engines without a server, one after the other, each with the whole machine to itself."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from loramux.bench.random_model import ModelShape, compute_dtype
from loramux.bench.settings import Settings
from loramux.llm import LLM

SPARE_TOKENS = 1.1
"""Room in the KV cache over what all requests need: blocks are not filled to the brim."""


@contextmanager
def running(model: Path, **engine_args: Any) -> Iterator[LLM]:
    """An engine whose memory is free again when the block ends; keep no other reference to it."""
    engine = LLM(str(model), **engine_args)
    try:
        yield engine
    finally:
        engine.shutdown()
        del engine
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def engine_arguments(settings: Settings, shape: ModelShape, num_requests: int) -> dict[str, Any]:
    """Arguments that every engine is started with, with room for so many requests at once.

    Prefix caching is off: every request is computed in full, every time.
    """
    length = settings.input_len + settings.output_len
    tokens = SPARE_TOKENS * num_requests * (length + 16)
    return {
        "load_format": settings.load_format,
        "skip_tokenizer_init": True,
        "enable_prefix_caching": False,
        "max_model_len": length,
        "kv_cache_memory_bytes": int(tokens * cache_bytes_per_token(shape)),
        **settings.engine_args,
    }


def cache_bytes_per_token(shape: ModelShape) -> int:
    return shape.num_cached_per_token * compute_dtype().itemsize
