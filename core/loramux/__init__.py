"""loramux: one base model, any number of LoRA adapters, found and loaded when a request names them.

Public names are imported when first used, so that ``import loramux`` costs no torch and a plugin
that only needs ``LoRAResolver`` starts fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from loramux.garbage import importing

if TYPE_CHECKING:
    from loramux.engine.args import EngineArgs
    from loramux.engine.async_llm_engine import AsyncLLMEngine
    from loramux.engine.llm_engine import LLMEngine
    from loramux.llm import LLM
    from loramux.lora.request import LoRARequest
    from loramux.lora.resolver import LoRAResolver, LoRAResolverRegistry, hookimpl
    from loramux.outputs import CompletionOutput, EmbeddingRequestOutput, RequestOutput
    from loramux.pooling_params import PoolerConfig, PoolingParams
    from loramux.sampling_params import SamplingParams
    from loramux.structured_outputs import StructuredOutputsParams

__version__ = "0.1.0"

_HOMES = {
    "LLM": "loramux.llm",
    "LLMEngine": "loramux.engine.llm_engine",
    "AsyncLLMEngine": "loramux.engine.async_llm_engine",
    "EngineArgs": "loramux.engine.args",
    "SamplingParams": "loramux.sampling_params",
    "StructuredOutputsParams": "loramux.structured_outputs",
    "RequestOutput": "loramux.outputs",
    "CompletionOutput": "loramux.outputs",
    "EmbeddingRequestOutput": "loramux.outputs",
    "PoolingParams": "loramux.pooling_params",
    "PoolerConfig": "loramux.pooling_params",
    "LoRARequest": "loramux.lora.request",
    "LoRAResolver": "loramux.lora.resolver",
    "LoRAResolverRegistry": "loramux.lora.resolver",
    "hookimpl": "loramux.lora.resolver",
}

__all__ = [
    "LLM",
    "AsyncLLMEngine",
    "CompletionOutput",
    "EmbeddingRequestOutput",
    "EngineArgs",
    "LLMEngine",
    "LoRARequest",
    "LoRAResolver",
    "LoRAResolverRegistry",
    "PoolerConfig",
    "PoolingParams",
    "RequestOutput",
    "SamplingParams",
    "StructuredOutputsParams",
    "__version__",
    "hookimpl",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'loramux' has no attribute {name!r}")
    with importing():
        value: object = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value  # from now on it is found without this function
    return value


def __dir__() -> list[str]:
    return __all__
