"""Paged attention in Triton: what ``loramux_kernels.paged_attention`` computes, on the GPU.

Sequences with one new token go to the decode kernels, which cut their keys into chunks; the others
go to the prefill kernel, which cuts their queries into tiles. One kernel for both would either
read a long sequence with one program or fill a tile of 128 rows with four.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from loramux_kernels.gpu import gpu_of
from loramux_kernels.overlap import overlapping
from loramux_kernels.paged_attention import AttentionOptions, LayerCache
from loramux_kernels.triton_attention.decode import attend_chunks
from loramux_kernels.triton_attention.metadata import Metadata
from loramux_kernels.triton_attention.prefill import attend_queries
from loramux_kernels.triton_attention.softmax import Scoring
from loramux_kernels.tuned.attention import attention_tiles
from loramux_kernels.tuned.attention_shapes import DecodeTiles, PrefillTiles, Tiles


def triton_paged_attention(
    query: Tensor,
    cache: LayerCache,
    metadata: Metadata,
    options: AttentionOptions,
    out: Tensor | None = None,
    tiles: Tiles | None = None,
) -> Tensor:
    """Attend each new token to its own sequence's cache, itself included.

    Rows that belong to no sequence are left unwritten.

    Shapes:
        query: ``[num_rows, num_heads, head_dim]``.
        out, returns: ``[num_rows, num_heads, value_dim]``, contiguous.

    Raises:
        ValueError: a layout or a shape that the kernels do not know.
    """
    _check(query, cache, metadata)
    tiles = tiles or _tuned_tiles(query, cache)
    if out is None:
        out = query.new_empty(query.shape[0], query.shape[1], cache.values.shape[-1])
    if metadata.num_decodes:
        _decode(out, query, cache, metadata, options, tiles.decode)
    if metadata.num_prefills:
        _prefill(out, query, cache, metadata, options, tiles.prefill)
    return out


def _tuned_tiles(query: Tensor, cache: LayerCache) -> Tiles:
    dim = max(cache.keys.shape[-1], cache.values.shape[-1])
    group = query.shape[1] // cache.keys.shape[2]
    gpu, itemsize = gpu_of(query.device), cache.keys.element_size()
    tiles = attention_tiles(gpu, dim, itemsize, group)
    if tiles is None:
        raise ValueError(
            f"No tiles of {group} query heads per KV head of {dim} values of {itemsize} bytes fit "
            f"the {gpu.program_bytes >> 10} KB of shared memory that a program has on this GPU: "
            "use the torch attention for this model."
        )
    return tiles


def _decode(
    out: Tensor,
    query: Tensor,
    cache: LayerCache,
    metadata: Metadata,
    options: AttentionOptions,
    tiles: DecodeTiles,
) -> None:
    num_heads, num_kv_heads = query.shape[1], cache.keys.shape[2]
    value_dim = cache.values.shape[-1]
    plan = metadata.chunk_plan(num_kv_heads, options.window, tiles)
    partial = query.new_empty(len(plan.work), num_heads, value_dim, dtype=torch.float32)
    partial_log = query.new_empty(len(plan.work), num_heads, dtype=torch.float32)
    scoring = Scoring.of(options)
    overlap = overlapping(query.device)
    attend_chunks[(num_kv_heads, plan.num_programs)](
        out,
        partial,
        partial_log,
        query,
        cache.keys,
        cache.values,
        metadata.block_table,
        plan.work,
        plan.padding,
        plan.arrivals,
        options.sinks,
        int(plan.is_new()),
        metadata.block_table.stride(0),
        query.stride(0),
        query.stride(1),
        scoring.factor,
        scoring.tanh_factor,
        NUM_HEADS=num_heads,
        NUM_KV_HEADS=num_kv_heads,
        KEY_DIM=query.shape[-1],
        VALUE_DIM=value_dim,
        BLOCK_SIZE=metadata.block_size,
        HAS_SOFTCAP=options.softcap is not None,
        ROWS=max(16, triton.next_power_of_2(num_heads // num_kv_heads)),
        TILE=tiles.keys,
        MANY=tiles.joined_at_once(num_heads // num_kv_heads, value_dim),
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
        maxnreg=tiles.registers,
        **overlap,
    )


def _prefill(
    out: Tensor,
    query: Tensor,
    cache: LayerCache,
    metadata: Metadata,
    options: AttentionOptions,
    tiles: PrefillTiles,
) -> None:
    num_heads, num_kv_heads = query.shape[1], cache.keys.shape[2]
    group = num_heads // num_kv_heads
    if group > tiles.rows:
        raise ValueError(
            f"The prefill kernel takes up to {tiles.rows} query heads per KV head and this layer "
            f"has {group}: use the torch attention for this model."
        )
    work = metadata.tile_plan(tiles.rows // group)
    scoring = Scoring.of(options)
    attend_queries[(num_kv_heads, len(work))](
        out,
        query,
        cache.keys,
        cache.values,
        metadata.block_table,
        work,
        options.sinks,
        metadata.block_table.stride(0),
        query.stride(0),
        query.stride(1),
        scoring.factor,
        scoring.tanh_factor,
        NUM_HEADS=num_heads,
        NUM_KV_HEADS=num_kv_heads,
        KEY_DIM=query.shape[-1],
        VALUE_DIM=cache.values.shape[-1],
        BLOCK_SIZE=metadata.block_size,
        HAS_SOFTCAP=options.softcap is not None,
        WINDOW=options.window or 0,
        ROWS=tiles.rows,
        TILE=tiles.keys,
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
        **overlapping(query.device),
    )


def _check(query: Tensor, cache: LayerCache, metadata: Metadata) -> None:
    if not cache.keys.is_contiguous() or not cache.values.is_contiguous():
        raise ValueError(
            "The KV cache of a layer must be two contiguous tensors: allocate keys and values "
            "separately, [num_blocks, block_size, num_kv_heads, head_dim] each."
        )
    if query.stride(2) != 1:
        raise ValueError(
            f"The values of a query head must be adjacent and have stride {query.stride(2)}: "
            "pass query.contiguous()."
        )
    if cache.keys.shape[1] != metadata.block_size:
        raise ValueError(
            f"The cache has blocks of {cache.keys.shape[1]} tokens and the batch was built for "
            f"{metadata.block_size}: build it with the cache's block size."
        )
