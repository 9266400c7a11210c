"""How many blocks of KV cache fit, and the cache itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path

import numpy as np
import torch

from loramux.engine.args import EngineArgs
from loramux.errors import InvalidRequestError
from loramux.models.attention import KVShape
from loramux.models.loader import LoadedModel
from loramux_kernels.paged_attention import LayerCache

HOST_MEMORY_SHARE = 0.2
"""Share of a machine's memory that the cache takes on a CPU unless told otherwise."""


def bytes_per_token(kv_shapes: Mapping[int, KVShape], dtype: torch.dtype) -> int:
    """Memory of one token's keys and values in all layers."""
    elements = sum(s.num_heads * (s.key_dim + s.value_dim) for s in kv_shapes.values())
    return elements * dtype.itemsize


def choose_num_blocks(
    args: EngineArgs, loaded: LoadedModel, max_model_len: int, run_largest_step: Callable[[], None]
) -> int:
    """Number of blocks the engine can afford, at most what ``max_num_seqs`` could ever fill.

    Raises:
        InvalidRequestError: one sequence of ``max_model_len`` tokens would not fit.
    """
    block_bytes = args.block_size * bytes_per_token(loaded.kv_shapes, loaded.dtype)
    blocks_per_sequence = -(-max_model_len // args.block_size)
    num_blocks = args.num_gpu_blocks_override
    if num_blocks is None:
        budget = args.kv_cache_memory_bytes or _memory_budget(args, loaded, run_largest_step)
        num_blocks = min(budget // block_bytes, args.max_num_seqs * blocks_per_sequence)
    if num_blocks < blocks_per_sequence:
        raise InvalidRequestError(
            f"The KV cache has room for {num_blocks * args.block_size} tokens, but one sequence "
            f"may have {max_model_len}; lower max_model_len or give the cache more memory.",
            "max_model_len",
        )
    return num_blocks


def allocate_caches(loaded: LoadedModel, num_blocks: int, block_size: int) -> dict[int, LayerCache]:
    """The cache of every layer, zeroed: a masked key must still be a finite number."""

    def cache(heads: int, width: int) -> torch.Tensor:
        return _zeros((num_blocks, block_size, heads, width), loaded.dtype, loaded.device)

    return {
        layer: LayerCache(cache(s.num_heads, s.key_dim), cache(s.num_heads, s.value_dim))
        for layer, s in loaded.kv_shapes.items()
    }


def _zeros(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """On a CPU the system clears memory when it is first written to, as NumPy leaves it to.

    PyTorch would write to all of it here, a second for each GiB before a server is ready.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    cleared = np.zeros(prod(shape) * dtype.itemsize, np.uint8)
    return torch.from_numpy(cleared).view(dtype).view(shape)


def _memory_budget(
    args: EngineArgs, loaded: LoadedModel, run_largest_step: Callable[[], None]
) -> int:
    if loaded.device.type == "cpu":
        return int(_host_memory() * HOST_MEMORY_SHARE)
    return _gpu_budget(args, loaded.device, run_largest_step)


def _host_memory() -> int:
    """Bytes this process may use: the machine's, or what its control group allows."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:  # no control group, or one that is mounted elsewhere
        return machine
    return min(machine, int(limit)) if limit.isdigit() else machine


def _gpu_budget(
    args: EngineArgs, device: torch.device, run_largest_step: Callable[[], None]
) -> int:
    """What ``gpu_memory_utilization`` leaves after weights and the largest step's activations."""
    torch.cuda.reset_peak_memory_stats(device)
    run_largest_step()
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_reserved(device)
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    used_by_others = total - free - torch.cuda.memory_reserved(device)
    return int(total * args.gpu_memory_utilization) - peak - used_by_others
