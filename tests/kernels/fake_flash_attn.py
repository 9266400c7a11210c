"""What flash-attn 2.8 and FlashAttention 3 document of the calls that are used, in plain torch.

Names, order and defaults of arguments are the libraries', which ``test_flash_libraries.py``
compares where they are installed; what they refuse is refused here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tests.kernels.paged_sequences import attend, gather


class FlashAttn2:
    """The module ``flash_attn``."""

    @staticmethod
    def flash_attn_with_kvcache(
        q,
        k_cache,
        v_cache,
        *,
        cache_seqlens=None,
        block_table=None,
        softmax_scale=None,
        causal=False,
        window_size=(-1, -1),
        softcap=0.0,
    ) -> Tensor:
        _check_pages_of_256(k_cache)
        scoring = (softmax_scale, causal, window_size, softcap)
        return _single_lengths(q, k_cache, v_cache, cache_seqlens, block_table, scoring)

    @staticmethod
    def flash_attn_varlen_func(
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        *,
        softmax_scale=None,
        causal=False,
        window_size=(-1, -1),
        softcap=0.0,
        block_table=None,
    ) -> Tensor:
        _check_pages_of_256(k)
        _check_integers(cu_seqlens_k, (len(block_table) + 1,))
        assert cu_seqlens_k[0] == 0
        lengths = cu_seqlens_k.diff()
        assert int(lengths.max()) <= max_seqlen_k
        scoring = (softmax_scale, causal, window_size, softcap)
        return _ragged(q, k, v, lengths, block_table, cu_seqlens_q, max_seqlen_q, scoring)


class FlashAttn3:
    """The module ``flash_attn_interface``."""

    @staticmethod
    def flash_attn_with_kvcache(
        q,
        k_cache,
        v_cache,
        *,
        cache_seqlens=None,
        page_table=None,
        cu_seqlens_q=None,
        max_seqlen_q=None,
        softmax_scale=None,
        causal=False,
        window_size=(-1, -1),
        softcap=0.0,
    ) -> Tensor:
        scoring = (softmax_scale, causal, window_size, softcap)
        if cu_seqlens_q is None:
            return _single_lengths(q, k_cache, v_cache, cache_seqlens, page_table, scoring)
        place = (cache_seqlens, page_table, cu_seqlens_q, max_seqlen_q)
        return _ragged(q, k_cache, v_cache, *place, scoring)


def _single_lengths(q, keys, values, lengths, table, scoring) -> Tensor:
    """Queries ``[batch, seqlen, heads, dim]``."""
    batch, seqlen, heads, dim = q.shape
    starts = torch.arange(0, batch * seqlen + 1, seqlen, dtype=torch.int32)
    assert q.stride(-1) == 1
    flat = q.reshape(batch * seqlen, heads, dim)
    return _ragged(flat, keys, values, lengths, table, starts, seqlen, scoring).view(q.shape)


def _ragged(q, keys, values, lengths, table, starts, max_seqlen_q, scoring) -> Tensor:
    """Queries ``[total, heads, dim]``; rows of no sequence are whatever memory held."""
    batch = len(table)
    assert type(max_seqlen_q) is int
    assert q.dtype == keys.dtype == values.dtype
    assert q.dtype in {torch.float16, torch.bfloat16}
    assert keys.shape == values.shape
    assert keys.shape[3] == q.shape[2] <= 256
    assert q.shape[2] % 8 == 0
    assert q.shape[1] % keys.shape[2] == 0
    assert all(tensor.stride(-1) == 1 for tensor in (q, keys, values))
    _check_integers(lengths, (batch,))
    _check_integers(starts, (batch + 1,))
    assert table.dtype == torch.int32
    assert table.stride(-1) == 1
    scale, causal, window, softcap = scoring
    assert type(softcap) is float
    out = torch.full_like(q, float("nan"), memory_format=torch.contiguous_format)
    for sequence, length in enumerate(lengths.tolist()):
        rows = slice(*starts[sequence : sequence + 2].tolist())
        rows = slice(rows.start, min(rows.stop, rows.start + max_seqlen_q))
        pages = table[sequence, : -(-length // keys.shape[1])].tolist()
        tokens = (gather(cache, pages, length) for cache in (keys, values))
        default = q.shape[-1] ** -0.5 if scale is None else scale
        out[rows] = attend(q[rows], *tokens, default, causal, *window, softcap)
    return out


def _check_pages_of_256(keys: Tensor) -> None:
    assert keys.shape[1] % 256 == 0, "Paged KV cache block size must be divisible by 256"


def _check_integers(tensor: Tensor, shape: tuple[int, ...]) -> None:
    assert tensor.dtype == torch.int32
    assert tensor.shape == shape
    assert tensor.is_contiguous()
