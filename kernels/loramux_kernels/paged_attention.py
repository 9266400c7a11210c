"""Attention over a paged KV cache, in torch: the path of CPUs and the reference of kernels.

The cache of one layer is ``[num_blocks, block_size, num_kv_heads, head_dim]`` for keys and the
same for values (Kwon et al. 2023, arXiv:2309.06180). A batch is flat: the tokens of all sequences
one after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, eq=False)
class DecodeGroup:
    """Sequences with one new token each and similar lengths, attended together.

    Shapes:
        rows: ``[count]``, their rows in the flat batch.
        block_table: ``[count, max_blocks]``, padded with any valid block.
        lengths: ``[count]``, tokens in the cache, the new one included.
    """

    rows: Tensor
    block_table: Tensor
    lengths: Tensor


@dataclass(frozen=True, eq=False)
class PrefillChunk:
    """Several new tokens of one sequence.

    ``start`` and ``stop`` bound its rows in the flat batch; ``length`` counts the tokens in the
    cache after this step; ``block_table`` is ``[blocks]``.
    """

    start: int
    stop: int
    length: int
    block_table: Tensor


@dataclass(frozen=True, eq=False)
class AttentionBatch:
    """Where the tokens of one step go in the cache, and what each may attend to."""

    slots: Tensor
    """``[num_rows]``: position of each token in the cache, block times block size plus offset."""
    decodes: Sequence[DecodeGroup]
    prefills: Sequence[PrefillChunk]
    block_size: int
    _masks: dict[tuple[int, int | None], Tensor] = field(default_factory=dict)

    def decode_mask(self, index: int, window: int | None) -> Tensor:
        """Keys a group may see, ``[count, 1, 1, keys]``; computed once for all layers."""
        key = (index, window)
        if key not in self._masks:
            self._masks[key] = _decode_mask(self.decodes[index], self.block_size, window)
        return self._masks[key]

    def prefill_mask(self, index: int, window: int | None) -> Tensor:
        """Keys each new token of a chunk may see, ``[1, 1, tokens, keys]``."""
        key = (-1 - index, window)
        if key not in self._masks:
            self._masks[key] = _prefill_mask(self.prefills[index], self.slots.device, window)
        return self._masks[key]


@dataclass(frozen=True, eq=False)
class LayerCache:
    """Keys and values of one layer, ``[num_blocks, block_size, num_kv_heads, head_dim]`` each."""

    keys: Tensor
    values: Tensor

    def write(self, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store new tokens, ``[num_rows, num_kv_heads, head_dim]``, at their slots."""
        self.keys.flatten(0, 1).index_copy_(0, slots, keys.to(self.keys.dtype))
        self.values.flatten(0, 1).index_copy_(0, slots, values.to(self.values.dtype))


@dataclass(frozen=True)
class AttentionOptions:
    """What model families vary: softmax scale, window, soft cap (Gemma 2) and sinks (gpt-oss)."""

    scale: float
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None


def paged_attention(
    query: Tensor, cache: LayerCache, batch: AttentionBatch, options: AttentionOptions
) -> Tensor:
    """Attend each new token to its own sequence's cache, itself included.

    Shapes:
        query: ``[num_rows, num_heads, head_dim]``.
        returns: ``[num_rows, num_heads, value_dim]``.
    """
    out = query.new_empty(query.shape[0], query.shape[1], cache.values.shape[-1])
    for index, group in enumerate(batch.decodes):
        mask = batch.decode_mask(index, options.window)
        out[group.rows] = _decode(query[group.rows], cache, group, mask, options)
    for index, chunk in enumerate(batch.prefills):
        mask = batch.prefill_mask(index, options.window)
        rows = slice(chunk.start, chunk.stop)
        out[rows] = _prefill(query[rows], cache, chunk, mask, options)
    return out


def _decode(
    query: Tensor, cache: LayerCache, group: DecodeGroup, mask: Tensor, options: AttentionOptions
) -> Tensor:
    """All query heads of one KV head are attended as if they were successive queries."""
    count, num_heads, head_dim = query.shape
    keys = cache.keys[group.block_table].flatten(1, 2).transpose(1, 2)
    values = cache.values[group.block_table].flatten(1, 2).transpose(1, 2)
    num_kv_heads = keys.shape[1]
    grouped = query.view(count, num_kv_heads, num_heads // num_kv_heads, head_dim)
    sinks = options.sinks
    if sinks is not None:
        sinks = sinks.view(1, num_kv_heads, num_heads // num_kv_heads, 1)
    return _attend(grouped, keys, values, mask, options, sinks).reshape(count, num_heads, -1)


def _prefill(
    query: Tensor, cache: LayerCache, chunk: PrefillChunk, mask: Tensor, options: AttentionOptions
) -> Tensor:
    num_heads = query.shape[1]
    keys = cache.keys[chunk.block_table].flatten(0, 1)[: chunk.length].transpose(0, 1)
    values = cache.values[chunk.block_table].flatten(0, 1)[: chunk.length].transpose(0, 1)
    repeats = num_heads // keys.shape[0]
    keys = keys.repeat_interleave(repeats, dim=0)[None]
    values = values.repeat_interleave(repeats, dim=0)[None]
    sinks = None if options.sinks is None else options.sinks.view(1, num_heads, 1, 1)
    out = _attend(query.transpose(0, 1)[None], keys, values, mask, options, sinks)
    return out[0].transpose(0, 1)


def _attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor,
    options: AttentionOptions,
    sinks: Tensor | None,
) -> Tensor:
    """Masked softmax attention; ``[batch, heads, queries, dim]`` in and out."""
    if options.softcap is None and sinks is None:
        return functional.scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, scale=options.scale
        )
    scores = torch.matmul(query, keys.transpose(-1, -2)).float() * options.scale
    if options.softcap is not None:
        scores = options.softcap * torch.tanh(scores / options.softcap)
    scores = scores.masked_fill(~mask, float("-inf"))
    if sinks is None:
        weights = torch.softmax(scores, dim=-1)
    else:
        with_sink = torch.cat([scores, sinks.float().expand(*scores.shape[:-1], 1)], dim=-1)
        weights = torch.softmax(with_sink, dim=-1)[..., :-1]
    return torch.matmul(weights.to(values.dtype), values)


def _decode_mask(group: DecodeGroup, block_size: int, window: int | None) -> Tensor:
    keys = torch.arange(group.block_table.shape[1] * block_size, device=group.lengths.device)
    lengths = group.lengths[:, None]
    mask = keys < lengths
    if window is not None:
        mask &= keys >= lengths - window
    return mask[:, None, None, :]


def _prefill_mask(chunk: PrefillChunk, device: torch.device, window: int | None) -> Tensor:
    count = chunk.stop - chunk.start
    queries = torch.arange(chunk.length - count, chunk.length, device=device)[:, None]
    keys = torch.arange(chunk.length, device=device)
    mask = keys <= queries
    if window is not None:
        mask &= keys > queries - window
    return mask[None, None]
