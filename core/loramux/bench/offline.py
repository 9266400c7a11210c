"""Engines without a server, one after the other, each with the whole machine to itself."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from loramux.bench.random_model import ModelShape, compute_dtype
from loramux.bench.settings import Settings
from loramux.llm import LLM

Result = TypeVar("Result")

SPARE_TOKENS = 1.1
"""Room in the KV cache over what all requests need: blocks are not filled to the brim."""


def with_engine(
    model: Path, engine_args: Mapping[str, Any], work: Callable[[LLM], Result]
) -> Result:
    """What ``work`` makes of an engine; its memory is free again when this returns.

    The engine must not be kept by what is returned. (As the target of a ``with`` it would live on
    while the next one is started.)
    """
    engine = LLM(str(model), **engine_args)
    try:
        return work(engine)
    finally:
        engine.shutdown()
        del engine
        release_memory()


def release_memory() -> None:
    """Give back what engines held that nobody refers to any more."""
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
    """What the keys and values of one token take, of all layers together."""
    return shape.num_cached_per_token * compute_dtype().itemsize
