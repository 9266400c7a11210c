"""Keys and values of new tokens into the cache, in one launch."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from loramux_kernels.jit import device_function, kernel
from loramux_kernels.overlap import let_next_begin, overlapping, wait_for_kernel_ahead
from loramux_kernels.paged_attention import LayerCache


def write_kv(cache: LayerCache, slots: Tensor, keys: Tensor, values: Tensor) -> None:
    """Store new tokens at their slots; a slot of -1 stores nothing (padding of CUDA graphs).

    Shapes:
        slots: ``[num_rows]``; keys, values: ``[num_rows, num_kv_heads, dim]``, each token and head
            contiguous in ``dim``.
    """
    num_rows, num_heads, key_dim = keys.shape
    store_tokens[(num_rows, 2)](
        cache.keys,
        cache.values,
        keys,
        values,
        slots,
        keys.stride(0),
        keys.stride(1),
        values.stride(0),
        values.stride(1),
        NUM_HEADS=num_heads,
        KEY_DIM=key_dim,
        VALUE_DIM=values.shape[-1],
        num_warps=4,
        **overlapping(slots.device),
    )


@kernel(unspecialized=("slots",))
def store_tokens(  # noqa: PLR0917
    key_cache: tl.tensor,
    value_cache: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    slots: tl.tensor,
    key_row_stride: tl.tensor,
    key_head_stride: tl.tensor,
    value_row_stride: tl.tensor,
    value_head_stride: tl.tensor,
    NUM_HEADS: tl.constexpr,
    KEY_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    OVERLAP: tl.constexpr,
) -> None:
    wait_for_kernel_ahead(OVERLAP)
    let_next_begin(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + row).to(tl.int64)
    if slot < 0:
        return
    if tl.program_id(1) == 0:
        _copy(
            key_cache + slot * NUM_HEADS * KEY_DIM,
            keys + row * key_row_stride,
            key_head_stride,
            NUM_HEADS,
            KEY_DIM,
        )
    else:
        _copy(
            value_cache + slot * NUM_HEADS * VALUE_DIM,
            values + row * value_row_stride,
            value_head_stride,
            NUM_HEADS,
            VALUE_DIM,
        )


@device_function
def _copy(
    target: tl.tensor,
    source: tl.tensor,
    head_stride: tl.tensor,
    NUM_HEADS: tl.constexpr,
    DIM: tl.constexpr,
) -> None:
    head = tl.arange(0, triton.next_power_of_2(NUM_HEADS))[:, None]
    column = tl.arange(0, triton.next_power_of_2(DIM))[None, :]
    mask = (head < NUM_HEADS) & (column < DIM)
    token = tl.load(source + head * head_stride + column, mask=mask)
    tl.store(target + head * DIM + column, token.to(target.dtype.element_ty), mask=mask)
