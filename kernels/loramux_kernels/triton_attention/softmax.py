"""Logits and cache access, which decode and prefill share.

Logits become exponents of two by one factor. Callers multiply by it where they subtract the
maximum: both together are one instruction.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import triton
import triton.language as tl

from loramux_kernels.jit import device_function
from loramux_kernels.paged_attention import AttentionOptions

_LOG2_E = math.log2(math.e)
LOG2_E = tl.constexpr(_LOG2_E)
PRECISION = tl.constexpr("tf32x3")
"""How float32 is multiplied: by tensor cores, in three terms. Narrower types take no notice."""


class Scoring(NamedTuple):
    """What turns products of queries and keys into exponents of two."""

    factor: float
    tanh_factor: float

    @classmethod
    def of(cls, options: AttentionOptions) -> Scoring:
        if options.softcap is None:
            return cls(options.scale * _LOG2_E, 0.0)
        return cls(options.softcap * _LOG2_E, 2 * _LOG2_E * options.scale / options.softcap)


@device_function
def logits(
    query: tl.tensor, keys: tl.tensor, tanh_factor: tl.tensor, HAS_SOFTCAP: tl.constexpr
) -> tl.tensor:
    """``[rows, tokens]`` from ``[rows, dim]`` and ``[tokens, dim]``, up to the factor."""
    product = tl.dot(query, tl.trans(keys), input_precision=PRECISION)
    if HAS_SOFTCAP:
        # tanh x = 1 - 2 / (1 + e^2x), which is right for all x, overflow included.
        product = 1 - 2 / (1 + tl.exp2(product * tanh_factor))
    return product


@device_function
def pages_of(
    table: tl.tensor,
    start: tl.tensor,
    offset: tl.tensor,
    end: tl.tensor,
    BLOCK_SIZE: tl.constexpr,
    ALIGNED: tl.constexpr,
    MASKED: tl.constexpr,
) -> tl.tensor:
    """Blocks that hold the positions ``start + offset``; block 0 for those not before ``end``.

    ``ALIGNED``: the start is where a block begins, so that most of this is the same in every
    tile. Where all positions exist, ``MASKED`` may be false.
    """
    if ALIGNED:
        block = start // BLOCK_SIZE + offset // BLOCK_SIZE
    else:
        block = (start + offset) // BLOCK_SIZE
    if MASKED:
        return tl.load(table + block, mask=offset < end - start, other=0)
    else:
        return tl.load(table + block)


@device_function
def slots_of(
    page: tl.tensor,
    start: tl.tensor,
    offset: tl.tensor,
    BLOCK_SIZE: tl.constexpr,
    ALIGNED: tl.constexpr,
) -> tl.tensor:
    """Where in the cache the tokens at ``start + offset`` lie, by the blocks that hold them."""
    if ALIGNED:
        return page * BLOCK_SIZE + offset % BLOCK_SIZE
    else:
        return page * BLOCK_SIZE + (start + offset) % BLOCK_SIZE


@device_function
def load_tokens(
    source: tl.tensor,
    slot: tl.tensor,
    exists: tl.tensor,
    STRIDE: tl.constexpr,
    DIM: tl.constexpr,
    MASKED: tl.constexpr,
) -> tl.tensor:
    """Keys or values of one head, padded with zeros to a power of two.

    Tokens that do not exist are zero: what was never written may be NaN, and a weight of zero
    does not make NaN harmless. Where all exist, ``MASKED`` may be false.
    """
    WIDTH: tl.constexpr = triton.next_power_of_2(DIM)
    column = tl.arange(0, WIDTH)
    address = source + slot[:, None].to(tl.int64) * STRIDE + column[None, :]
    if MASKED:
        return tl.load(address, mask=exists[:, None] & (column < DIM)[None, :], other=0.0)
    elif WIDTH > DIM:
        return tl.load(address, mask=(column < DIM)[None, :], other=0.0)
    else:
        return tl.load(address)


@device_function
def exponentials(
    raw: tl.tensor, top: tl.tensor, factor: tl.tensor, MAYBE_EMPTY: tl.constexpr
) -> tl.tensor:
    """Weights of a tile, what earlier weights must be multiplied by, and the new maximum.

    ``MAYBE_EMPTY``: a row may have seen no key yet, nor see one in this tile.
    """
    new_top = tl.maximum(top, tl.max(raw, 1) * factor)
    base = new_top
    if MAYBE_EMPTY:
        base = tl.where(new_top == float("-inf"), 0.0, new_top)
    return tl.exp2(raw * factor - base[:, None]), tl.exp2(top - base), new_top
