"""Paged attention by FlashAttention, where its library is installed.

It follows the documented interface of flash-attn 2.8 (``flash_attn_with_kvcache``, and
``flash_attn_varlen_func`` with a block table) and of FlashAttention 3
(``flash_attn_interface.flash_attn_with_kvcache`` with a page table). Both read lengths and blocks
on the device, so CUDA graphs may hold their launches. It has not been measured.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from loramux_kernels.attention_libraries.library import (
    Attend,
    AttentionLibraryError,
    CacheShape,
    NotInstalledError,
    Requirement,
    unserved_cache,
)
from loramux_kernels.paged_attention import AttentionOptions, LayerCache

if TYPE_CHECKING:
    from loramux_kernels.triton_attention import Metadata

MAX_DIM = 256


class FlashAttention(ABC):
    """One of the two libraries, over batches as the Triton kernels take them.

    Args:
        module: the library itself.
    """

    name: ClassVar[str]
    requirement: ClassVar[Requirement]
    capabilities: ClassVar[range]
    """Major compute capabilities that it is built for."""
    table_argument: ClassVar[str]
    """What it calls a block table where decodes read their keys through one."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def unserved(self, cache: CacheShape) -> str | None:
        """Why it cannot attend to such a cache, None where it can."""
        if cache.key_dim > MAX_DIM or cache.key_dim % 8:
            return (
                f"{self.name} takes heads of up to {MAX_DIM} in multiples of 8 and a layer's are "
                f"{cache.key_dim} wide"
            )
        return unserved_cache(cache)

    def over(self, batch: Metadata, max_new_tokens: int) -> Attend:
        """The attention of one step.

        Args:
            max_new_tokens: the most that a sequence has, or an upper bound; 1 where all have one.
        """
        return self._decodes(batch) if max_new_tokens == 1 else self._mixed(batch, max_new_tokens)

    def _decodes(self, batch: Metadata) -> Attend:
        """Every row is the only one of its sequence; sequences without one come last."""

        def attend(query: Tensor, cache: LayerCache, options: AttentionOptions) -> Tensor:
            out: Tensor = self._module.flash_attn_with_kvcache(
                query[:, None],
                cache.keys,
                cache.values,
                cache_seqlens=batch.lengths[: len(query)],
                **{self.table_argument: batch.block_table[: len(query)]},
                **_scoring(options),
            )
            return out[:, 0]

        return attend

    @abstractmethod
    def _mixed(self, batch: Metadata, max_new_tokens: int) -> Attend: ...


class FlashAttention2(FlashAttention):
    """flash-attn: Ampere and newer, blocks of multiples of 256 tokens."""

    name = "flash-attn 2"
    requirement = Requirement("flash_attn", "flash-attn", (2, 8), (3, 0))
    capabilities = range(8, 100)
    table_argument = "block_table"

    def unserved(self, cache: CacheShape) -> str | None:
        if cache.block_size % 256:
            return (
                f"{self.name} takes blocks of multiples of 256 tokens and block_size is "
                f"{cache.block_size}"
            )
        return super().unserved(cache)

    def _mixed(self, batch: Metadata, max_new_tokens: int) -> Attend:
        key_start_loc = functional.pad(torch.cumsum(batch.lengths, 0, dtype=torch.int32), (1, 0))

        def attend(query: Tensor, cache: LayerCache, options: AttentionOptions) -> Tensor:
            out: Tensor = self._module.flash_attn_varlen_func(
                query,
                cache.keys,
                cache.values,
                cu_seqlens_q=batch.query_start_loc,
                cu_seqlens_k=key_start_loc,
                max_seqlen_q=max_new_tokens,
                max_seqlen_k=batch.block_table.shape[1] * batch.block_size,
                block_table=batch.block_table,
                **_scoring(options),
            )
            return out

        return attend


class FlashAttention3(FlashAttention):
    """FlashAttention 3: Hopper, blocks of any size."""

    name = "FlashAttention 3"
    requirement = Requirement("flash_attn_interface", "flash_attn_3", (3, 0), (4, 0))
    capabilities = range(9, 10)
    table_argument = "page_table"

    def _mixed(self, batch: Metadata, max_new_tokens: int) -> Attend:
        def attend(query: Tensor, cache: LayerCache, options: AttentionOptions) -> Tensor:
            out: Tensor = self._module.flash_attn_with_kvcache(
                query,
                cache.keys,
                cache.values,
                cache_seqlens=batch.lengths,
                page_table=batch.block_table,
                cu_seqlens_q=batch.query_start_loc,
                max_seqlen_q=max_new_tokens,
                **_scoring(options),
            )
            return out

        return attend


def load_flash_attention(capability: tuple[int, int]) -> FlashAttention:
    """The newest that is installed and built for a GPU of that compute capability.

    Raises:
        AttentionLibraryError: none is, or it cannot be used.
    """
    missing = []
    for kind in (FlashAttention3, FlashAttention2):
        if capability[0] in kind.capabilities:
            try:
                return kind(kind.requirement.load())
            except NotInstalledError:
                missing.append(str(kind.requirement))
    if not missing:
        raise AttentionLibraryError(f"the GPU's compute capability is {capability[0]}, less than 8")
    raise NotInstalledError(f"{' or '.join(missing)} is not installed")


def _scoring(options: AttentionOptions) -> dict[str, Any]:
    """The library counts the keys before a query's own, a window that one too."""
    window = (-1, -1) if options.window is None else (options.window - 1, 0)
    return {
        "softmax_scale": options.scale,
        "causal": True,
        "window_size": window,
        "softcap": options.softcap or 0.0,
    }
