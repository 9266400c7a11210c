"""Adapters in one stretch of memory: the same bits at the same places as matrix by matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loramux.lora.device.packed_moves import PackedMoves
from loramux.lora.device.pieces import gather, split_runs
from loramux.lora.weights import AdapterWeights, LowRankPair
from tests.lora.arena_cases import SITES, check_resident, make_store, make_weights, pack
from tests.lora.residents import make_adapter

RANKS = {"q": 5, "k": 1, "down": 16, "embed": 3}
PAGE = 4096


def mixed_weights() -> AdapterWeights:
    pairs = make_weights("mixed", RANKS).pairs
    dtypes = [torch.bfloat16, torch.float32, torch.float16]
    return AdapterWeights(
        "mixed",
        {
            name: LowRankPair(p.a.to(dtypes[i % 3]), p.b.to(dtypes[(i + 1) % 3]), p.scaling)
            for i, (name, p) in enumerate(pairs.items())
        },
    )


CASES = {
    "float32": make_weights("a", RANKS),
    "bfloat16": make_weights("b", RANKS, torch.bfloat16),
    "float16": make_weights("c", RANKS, torch.float16),
    "float64": make_weights("d", RANKS, torch.float64),
    "mixed": mixed_weights(),
    "embedding": make_weights("e", {"embed": 7}),
}


@pytest.mark.parametrize("case", CASES)
def test_packed_weights_are_the_same_adapter(case):
    weights = CASES[case]
    packed = pack(weights)
    assert list(packed.pairs) == list(weights.pairs)
    assert len(packed.pairs) == len(weights.pairs)
    assert (packed.max_rank, packed.num_bytes) == (weights.max_rank, weights.num_bytes)
    for name, pair in weights.pairs.items():
        found = packed.pairs[name]
        assert found.scaling == pair.scaling
        assert torch.equal(found.a, pair.a)
        assert torch.equal(found.b, pair.b)
        assert (found.a.dtype, found.b.dtype) == (pair.a.dtype, pair.b.dtype)
    assert "v" not in packed.pairs
    with pytest.raises(KeyError):
        packed.pairs["v"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("slot_bytes", [1024, 4096, 1 << 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_bit_arrives(case, slot_bytes, dtype):
    """In one piece, in several, and by the slow way where the quick one is closed."""
    store = make_store(40 * PAGE, dtype, slot_bytes)
    try:
        packed = pack(CASES[case])
        resident = store.prepare(make_adapter(packed.digest), packed)
        assert store.reserve(resident)
        store.fill(resident, packed)
        check_resident(resident, CASES[case], dtype)
    finally:
        store.shutdown()


def moves_of(weights: AdapterWeights) -> PackedMoves:
    packed = pack(weights)
    return PackedMoves(packed.pairs, np.zeros((len(weights.pairs), 2), np.int64))


def test_what_the_quick_way_is_open_to():
    assert moves_of(CASES["mixed"]).fit(1 << 20)
    assert not moves_of(CASES["float64"]).fit(1 << 20)
    largest = 4 * 16 * 43
    assert moves_of(CASES["float32"]).fit(largest + 32)
    assert not moves_of(CASES["float32"]).fit(largest + 31)


def test_memory_that_is_mostly_something_else_is_not_copied():
    packed = pack(make_weights("a", {"q": 4, "k": 1}))
    offsets = np.zeros((2, 2), np.int64)
    assert PackedMoves(packed.pairs, offsets).fit(1 << 20)
    packed.pairs.table[1, [2, 4]] += 4000
    assert not PackedMoves(packed.pairs, offsets).fit(1 << 20)


@given(
    st.dictionaries(st.sampled_from(sorted(SITES)), st.integers(1, 9), min_size=1),
    st.integers(4 * 9 * 50 + 32, 9000),
    st.integers(1, 5),
)
def test_pieces_hold_every_byte_once(ranks, max_bytes, max_records):
    weights = make_weights("a", ranks)
    moves = moves_of(weights)
    assert moves.fit(max_bytes)
    total = 0.0
    for piece in moves.cut(max_bytes, max_records):
        assert piece.num_bytes <= max_bytes
        assert piece.num_records <= max_records
        data = torch.zeros(piece.num_bytes, dtype=torch.uint8)
        for group in split_runs(piece.runs, 100):
            gather(group, data.data_ptr())
        fields = list(piece.records[torch.float32])
        for place in range(0, len(fields), 5):
            start, rows, columns = fields[place : place + 3]
            values = data[4 * start : 4 * (start + rows * columns)].clone().view(torch.float32)
            total += values.double().sum().item()
    wanted = sum(
        half.double().sum() for pair in weights.pairs.values() for half in (pair.a, pair.b)
    )
    assert total == pytest.approx(float(wanted), abs=1e-6)
