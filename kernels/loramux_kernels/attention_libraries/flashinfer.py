"""Paged attention by FlashInfer, where its library is installed.

It follows the documented interface of flashinfer-python 0.6 and 0.7: a wrapper is planned on the
host for one step and one kind of layer, and then run by every layer of that kind. CUDA graphs hold
no work of the host, so they cannot hold this. It has not been measured.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from loramux_kernels.attention_libraries.library import (
    Attend,
    CacheShape,
    Requirement,
    unserved_cache,
)
from loramux_kernels.paged_attention import AttentionOptions, LayerCache

HEAD_DIMS = (64, 128, 256)
"""Those that its kernels are compiled for with keys and values of one width."""
WORKSPACE_BYTES = 128 * 1024 * 1024
"""For partial results, as the library recommends; all wrappers share it, one after another."""


@dataclass(frozen=True, eq=False)
class HostBatch:
    """A step as the host knows it, one entry for each sequence; none is empty."""

    block_ids: Sequence[Sequence[int]]
    lengths: Sequence[int]
    """Tokens in the cache, new ones included; as many blocks as they fill are named."""
    num_new_tokens: Sequence[int]
    block_size: int

    @property
    def is_decode(self) -> bool:
        return all(count == 1 for count in self.num_new_tokens)


@dataclass(frozen=True)
class LayerKind:
    """What a plan depends on beside the batch."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype
    options: AttentionOptions

    @classmethod
    def of(cls, query: Tensor, cache: LayerCache, options: AttentionOptions) -> LayerKind:
        """Of a layer that is about to attend."""
        return cls(query.shape[1], cache.keys.shape[2], query.shape[2], query.dtype, options)


class FlashInfer:
    """The library on one device.

    Args:
        module: the library itself.
    """

    name = "FlashInfer"
    requirement = Requirement("flashinfer", "flashinfer-python", (0, 6), (0, 8))

    def __init__(self, module: ModuleType, device: torch.device) -> None:
        self._module = module
        self._device = device
        self._planners: dict[tuple[LayerKind, bool], Planner] = {}

    def unserved(self, cache: CacheShape) -> str | None:
        """Why it cannot attend to such a cache, None where it can."""
        if cache.key_dim not in HEAD_DIMS:
            return f"{self.name} takes heads of 64, 128 or 256 and a layer's are {cache.key_dim}"
        return unserved_cache(cache)

    def over(self, batch: HostBatch) -> Attend:
        """The attention of one step, all of whose layers are launched before the next step's."""
        places = _Places.of(batch, self._device)
        planned: dict[LayerKind, Planner] = {}

        def attend(query: Tensor, cache: LayerCache, options: AttentionOptions) -> Tensor:
            kind = LayerKind.of(query, cache, options)
            if kind not in planned:
                planned[kind] = self._planner(kind, places)
                planned[kind].plan(kind, places)
            return planned[kind].run(query, cache)

        return attend

    def _planner(self, kind: LayerKind, places: _Places) -> Planner:
        key = (kind, places.is_decode)
        if key not in self._planners:
            make = DecodePlanner if places.is_decode else PrefillPlanner
            self._planners[key] = make(self._module, self._workspace)
        return self._planners[key]

    @cached_property
    def _workspace(self) -> Tensor:
        return torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=self._device)


@dataclass(frozen=True, eq=False)
class _Places:
    """Where the rows and blocks of each sequence are, int32; the counts stay on the host.

    Shapes:
        row_starts, block_starts: ``[sequences + 1]``; last_lengths: ``[sequences]``, tokens in
            each last block; blocks: ``[block_starts[-1]]``, on the device.
    """

    row_starts: Tensor
    block_starts: Tensor
    last_lengths: Tensor
    blocks: Tensor
    block_size: int
    is_decode: bool

    @classmethod
    def of(cls, batch: HostBatch, device: torch.device) -> _Places:
        size = batch.block_size
        blocks = [block for ids in batch.block_ids for block in ids]
        return cls(
            _on_host(accumulate(batch.num_new_tokens, initial=0), device),
            _on_host(accumulate(map(len, batch.block_ids), initial=0), device),
            _on_host(((length - 1) % size + 1 for length in batch.lengths), device),
            _on_host(blocks, device).to(device, non_blocking=True),
            size,
            batch.is_decode,
        )


def _on_host(numbers: Iterable[int], device: torch.device) -> Tensor:
    """Pinned for a GPU: a copy from other memory would wait for all steps before."""
    host = torch.frombuffer(array("i", numbers), dtype=torch.int32)
    return host.pin_memory() if device.type == "cuda" else host


class Planner(ABC):
    """One of the library's wrappers, planned anew for every step."""

    def __init__(self, wrapper: Any, device: torch.device) -> None:
        self._wrapper = wrapper
        self._was_copied: torch.cuda.Event | None = None
        if device.type == "cuda":
            self._was_copied = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def plan(self, kind: LayerKind, places: _Places) -> None:
        """Say which batch the next runs are of.

        A plan is written to pinned memory that the wrapper keeps, and copied from there behind
        the steps under way: the one before must have been copied first.
        """
        if self._was_copied is not None:
            self._was_copied.synchronize()
        self._plan(kind, places)
        if self._was_copied is not None:
            self._was_copied.record()

    @abstractmethod
    def _plan(self, kind: LayerKind, places: _Places) -> None: ...

    def run(self, query: Tensor, cache: LayerCache) -> Tensor:
        """Attend the rows of the planned batch; the shape of ``query`` out."""
        out: Tensor = self._wrapper.run(query, (cache.keys, cache.values))
        return out


class DecodePlanner(Planner):
    """Batches of sequences with one new token each."""

    def __init__(self, module: ModuleType, workspace: Tensor) -> None:
        # Tensor cores take any number of query heads for each KV head.
        wrapper = module.BatchDecodeWithPagedKVCacheWrapper(
            workspace, kv_layout="NHD", use_tensor_cores=True
        )
        super().__init__(wrapper, workspace.device)

    def _plan(self, kind: LayerKind, places: _Places) -> None:
        self._wrapper.plan(
            places.block_starts,
            places.blocks,
            places.last_lengths,
            kind.num_heads,
            kind.num_kv_heads,
            kind.head_dim,
            places.block_size,
            **_scoring(kind),
        )


class PrefillPlanner(Planner):
    """Batches of sequences with any numbers of new tokens."""

    def __init__(self, module: ModuleType, workspace: Tensor) -> None:
        wrapper = module.BatchPrefillWithPagedKVCacheWrapper(workspace, kv_layout="NHD")
        super().__init__(wrapper, workspace.device)

    def _plan(self, kind: LayerKind, places: _Places) -> None:
        self._wrapper.plan(
            places.row_starts,
            places.block_starts,
            places.blocks,
            places.last_lengths,
            kind.num_heads,
            kind.num_kv_heads,
            kind.head_dim,
            places.block_size,
            causal=True,
            **_scoring(kind),
        )


def _scoring(kind: LayerKind) -> dict[str, Any]:
    """The library counts the keys before a query's own, a window that one too."""
    window = kind.options.window
    return {
        "sm_scale": kind.options.scale,
        "window_left": -1 if window is None else window - 1,
        "logits_soft_cap": kind.options.softcap,
        "q_data_type": kind.dtype,
        "kv_data_type": kind.dtype,
    }
