"""Device memory of an adapter, over its own bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from loramux.bench.offline import engine_arguments
from loramux.bench.random_model import ModelShape, compute_dtype
from loramux.bench.settings import Settings
from loramux.bench.shelf import AdapterShelf
from loramux.bench.workload import adapter_requests
from loramux.engine.args import EngineArgs
from loramux.engine.assembly import EngineParts
from loramux.engine.llm_engine import LLMEngine
from loramux.engine.start import start_engine
from loramux.lora.device.pool import DevicePool
from loramux.lora.request import LoRARequest
from loramux.sampling_params import SamplingParams

RANK, MAX_RANK = 8, 256

PLACES = 100
"""Adapters that the memory given to a GPU's pool would hold if each took its own bytes."""


@dataclass(frozen=True)
class AdapterMemory:
    """A rank-8 adapter in an engine that accepts ranks up to 256.

    ``own_bytes`` are its numbers in the type of the device. On a GPU ``device_bytes`` is the
    memory of the pool over the adapters that are in it when it is full, so it is an upper bound;
    on a CPU it is the memory of the tensors that were placed.
    """

    rank: int
    max_lora_rank: int
    own_bytes: int
    device_bytes: float
    of_own_bytes: float


def measure_adapter_memory(
    settings: Settings, shape: ModelShape, model: Path, shelf: AdapterShelf
) -> AdapterMemory:
    """Start an engine, ask for adapters of the shelf, and look at what they took."""
    own = shape.num_adapter_weights(RANK) * compute_dtype().itemsize
    limits: dict[str, Any] = {"enable_lora": True, "max_lora_rank": MAX_RANK, "max_loras": 4}
    is_gpu = torch.cuda.is_available()
    if is_gpu:
        limits["lora_memory_bytes"] = PLACES * own
    arguments = engine_arguments(settings, shape, num_requests=4)
    parts = start_engine(EngineArgs(model=str(model), **{**limits, **arguments}))
    engine = LLMEngine(parts)
    try:
        taken = (
            _share_of_full_pool(engine, parts, shelf, own)
            if is_gpu
            else _tensor_bytes(engine, parts, shelf)
        )
    finally:
        engine.shutdown()
    return AdapterMemory(RANK, MAX_RANK, own, taken, taken / own)


def _share_of_full_pool(
    engine: LLMEngine, parts: EngineParts, shelf: AdapterShelf, own_bytes: int
) -> float:
    """Ask for more adapters than fit, and divide the pool's memory by those that are in it."""
    for name in shelf.keep(PLACES + PLACES // 20):
        _ask(engine, _request(shelf, name))
    return PLACES * own_bytes / len(_pool(parts).resident_digests)


def _tensor_bytes(engine: LLMEngine, parts: EngineParts, shelf: AdapterShelf) -> float:
    """The memory behind the tensors of one adapter that was placed."""
    (name,) = shelf.keep(1)
    request = _request(shelf, name)
    _ask(engine, request)
    assert parts.materializer is not None, "the engine was started with LoRA"
    resident = _pool(parts).get(parts.materializer.load(request).result())
    assert resident is not None, "nobody has asked for another adapter since"
    tensors = [tensor for pair in resident.pairs.values() for tensor in (pair.a, pair.b)]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors}
    return float(sum(storage.nbytes() for storage in storages.values()))


def _pool(parts: EngineParts) -> DevicePool:
    assert parts.lora is not None, "the engine was started with LoRA"
    return parts.lora.pool


def _request(shelf: AdapterShelf, name: str) -> LoRARequest:
    return adapter_requests([shelf.directory / name])[0]


def _ask(engine: LLMEngine, request: LoRARequest) -> None:
    """One token with the adapter.

    Raises:
        LoramuxError: it cannot be used.
    """
    params = SamplingParams(temperature=0, max_tokens=1)
    engine.add_request(request.lora_name, {"prompt_token_ids": [3]}, params, request)
    while engine.has_unfinished_requests():
        for output in engine.step():
            if output.error is not None:
                raise output.error
