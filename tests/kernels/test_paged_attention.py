"""Attention over shuffled blocks, held to plain attention over each sequence in float64."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from loramux_kernels.paged_attention import (
    AttentionBatch,
    AttentionOptions,
    DecodeGroup,
    LayerCache,
    PrefillChunk,
    paged_attention,
)

KEY_DIM, VALUE_DIM = 8, 5
SCALE = 0.3


@dataclass
class Cached:
    """A sequence: all its keys, values and queries, its blocks, and how many tokens are new."""

    length: int
    num_new: int
    query: Tensor
    key: Tensor
    value: Tensor
    blocks: list[int] = field(default_factory=list)

    @classmethod
    def random(cls, length: int, num_new: int, heads: int, kv_heads: int) -> Cached:
        return cls(
            length,
            num_new,
            torch.randn(length, heads, KEY_DIM),
            torch.randn(length, kv_heads, KEY_DIM),
            torch.randn(length, kv_heads, VALUE_DIM),
        )

    def slots(self, block_size: int, start: int, stop: int) -> list[int]:
        return [
            self.blocks[p // block_size] * block_size + p % block_size for p in range(start, stop)
        ]


def plain_attention(sequence: Cached, options: AttentionOptions) -> Tensor:
    """Attention of the new tokens, head by head and query by query, in float64."""
    heads, kv_heads = sequence.query.shape[1], sequence.key.shape[1]
    out = torch.zeros(sequence.num_new, heads, VALUE_DIM, dtype=torch.float64)
    for row in range(sequence.num_new):
        position = sequence.length - sequence.num_new + row
        first = 0 if options.window is None else max(0, position + 1 - options.window)
        for head in range(heads):
            kv_head = head // (heads // kv_heads)
            keys = sequence.key[first : position + 1, kv_head].double()
            scores = keys @ sequence.query[position, head].double() * options.scale
            if options.softcap is not None:
                scores = options.softcap * torch.tanh(scores / options.softcap)
            weights = scores.exp()
            sink = 0.0 if options.sinks is None else options.sinks[head].double().exp()
            weights = weights / (weights.sum() + sink)
            out[row, head] = weights @ sequence.value[first : position + 1, kv_head].double()
    return out


def place(sequences: list[Cached], block_size: int, kv_heads: int, sharing: int) -> LayerCache:
    """Give everybody shuffled blocks and write what is not new; strangers' blocks hold NaN.

    The first ``sharing`` blocks of the first sequence are everybody's who is as long.
    """
    needed = sum(-(-s.length // block_size) for s in sequences)
    free = torch.randperm(needed + 3).tolist()
    keys = torch.full((needed + 3, block_size, kv_heads, KEY_DIM), float("nan"))
    values = torch.full((needed + 3, block_size, kv_heads, VALUE_DIM), float("nan"))
    for sequence in sequences:
        sequence.blocks = [free.pop() for _ in range(-(-sequence.length // block_size))]
        if sequence.length - sequence.num_new >= sharing * block_size:
            sequence.blocks[:sharing] = sequences[0].blocks[:sharing]
            sequence.key[: sharing * block_size] = sequences[0].key[: sharing * block_size]
            sequence.value[: sharing * block_size] = sequences[0].value[: sharing * block_size]
        keys[sequence.blocks] = 0.0
        values[sequence.blocks] = 0.0
    cache = LayerCache(keys, values)
    for sequence in sequences:
        old = sequence.length - sequence.num_new
        slots = torch.tensor(sequence.slots(block_size, 0, old), dtype=torch.long)
        cache.write(slots, sequence.key[:old], sequence.value[:old])
    return cache


def flat_batch(sequences: list[Cached], block_size: int) -> AttentionBatch:
    """All single tokens in one group, padded with blocks of NaN's neighbours, the rest chunks."""
    slots: list[int] = []
    decodes: list[tuple[int, Cached]] = []
    prefills = []
    for sequence in sequences:
        start = len(slots)
        slots += sequence.slots(block_size, sequence.length - sequence.num_new, sequence.length)
        if sequence.num_new == 1:
            decodes.append((start, sequence))
        else:
            table = torch.tensor(sequence.blocks)
            prefills.append(PrefillChunk(start, len(slots), sequence.length, table))
    groups = [decode_group(decodes)] if decodes else []
    return AttentionBatch(torch.tensor(slots), groups, prefills, block_size)


def decode_group(decodes: list[tuple[int, Cached]]) -> DecodeGroup:
    width = max(len(sequence.blocks) for _, sequence in decodes)
    tables = [s.blocks + s.blocks[:1] * (width - len(s.blocks)) for _, s in decodes]
    return DecodeGroup(
        rows=torch.tensor([row for row, _ in decodes]),
        block_table=torch.tensor(tables),
        lengths=torch.tensor([sequence.length for _, sequence in decodes]),
    )


def check(
    shapes: list[tuple[int, int]],
    options: AttentionOptions,
    block_size: int,
    heads: int = 4,
    kv_heads: int = 2,
    sharing: int = 0,
) -> None:
    """Compute ``(length, new tokens)`` sequences in one batch and compare each of them."""
    sequences = [Cached.random(length, new, heads, kv_heads) for length, new in shapes]
    cache = place(sequences, block_size, kv_heads, sharing)
    batch = flat_batch(sequences, block_size)
    new = [slice(s.length - s.num_new, s.length) for s in sequences]
    cache.write(
        batch.slots,
        torch.cat([s.key[rows] for s, rows in zip(sequences, new, strict=True)]),
        torch.cat([s.value[rows] for s, rows in zip(sequences, new, strict=True)]),
    )
    query = torch.cat([s.query[rows] for s, rows in zip(sequences, new, strict=True)])
    out = paged_attention(query, cache, batch, options)
    expected = torch.cat([plain_attention(sequence, options) for sequence in sequences])
    torch.testing.assert_close(out.double(), expected, atol=2e-6, rtol=1e-5)


OPTIONS = {
    "plain": AttentionOptions(SCALE),
    "window": AttentionOptions(SCALE, window=3),
    "window of one": AttentionOptions(SCALE, window=1),
    "softcap": AttentionOptions(SCALE, softcap=0.5),
    "sinks": AttentionOptions(SCALE, sinks=torch.tensor([0.5, -1.0, 2.0, 0.0])),
    "all": AttentionOptions(
        SCALE, window=5, softcap=0.7, sinks=torch.tensor([0.5, -1.0, 2.0, 0.0])
    ),
}


@st.composite
def shapes(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Lengths of some sequences, each with how many of its tokens are new."""
    lengths = draw(st.lists(st.integers(1, 21), min_size=1, max_size=5))
    return [(n, draw(st.just(1) | st.just(n) | st.integers(1, n))) for n in lengths]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@settings(deadline=None, max_examples=25)
@given(shapes=shapes(), block_size=st.sampled_from([1, 2, 4, 16]), seed=st.integers(0, 2**31))
def test_mixed_batches_equal_plain_attention(options, shapes, block_size, seed):
    torch.manual_seed(seed)
    check(shapes, options, block_size)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 1), (6, 3), (1, 1)])
def test_grouped_heads(heads, kv_heads):
    torch.manual_seed(heads)
    check([(9, 1), (1, 1), (6, 6), (10, 3)], OPTIONS["plain"], 4, heads, kv_heads)


def test_one_token_prompts():
    torch.manual_seed(1)
    check([(1, 1)], OPTIONS["plain"], 16)
    check([(1, 1), (1, 1)], OPTIONS["window"], 1)


def test_sequences_may_share_their_first_blocks():
    torch.manual_seed(2)
    check([(12, 2), (9, 1), (10, 2), (3, 3)], OPTIONS["plain"], 4, sharing=2)


def test_a_stranger_s_nan_stays_with_the_stranger():
    """One sequence's keys and values are NaN; the others in its group and batch are exact."""
    torch.manual_seed(3)
    options = OPTIONS["plain"]
    sequences = [Cached.random(length, new, 4, 2) for length, new in [(5, 1), (9, 1), (6, 3)]]
    sequences[1].key.fill_(float("nan"))
    sequences[1].value.fill_(float("inf"))
    cache = place(sequences, 4, 2, sharing=0)
    batch = flat_batch(sequences, 4)
    for sequence in sequences:
        slots = torch.tensor(sequence.slots(4, 0, sequence.length))
        cache.write(slots, sequence.key, sequence.value)
    query = torch.cat([s.query[s.length - s.num_new :] for s in sequences])
    out = paged_attention(query, cache, batch, options)
    assert out[1].isnan().all()
    expected = torch.cat([plain_attention(sequences[i], options) for i in (0, 2)])
    torch.testing.assert_close(out[[0, 2, 3, 4]].double(), expected, atol=2e-6, rtol=1e-5)


def test_masks_are_made_once_for_all_layers_of_a_window():
    torch.manual_seed(4)
    sequences = [Cached.random(5, 1, 4, 2), Cached.random(6, 3, 4, 2)]
    place(sequences, 4, 2, sharing=0)
    batch = flat_batch(sequences, 4)
    assert batch.decode_mask(0, 3) is batch.decode_mask(0, 3)
    assert batch.prefill_mask(0, 3) is batch.prefill_mask(0, 3)
    assert batch.decode_mask(0, 3).sum() == 3
    assert batch.decode_mask(0, None).sum() == 5
