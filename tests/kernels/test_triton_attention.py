"""The Triton attention kernels under Triton's interpreter, held to float64."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels import attention_cases
from tests.kernels.attention_cases import Case
from tests.kernels.interpreted import interpreting_process

pytest.importorskip("triton", reason="the GPU kernels need the extra gpu")

DECODES = ((1, 1), (16, 1), (50, 1), (0, 1))
PREFILLS = ((5, 5), (40, 21), (33, 2))
SINGLE_TOKENS = ((16, 1), (1, 1), (50, 1), (33, 1), (0, 1), (17, 1), (96, 1))
MIXED = ((40, 21), (33, 1), (0, 1), (5, 5), (50, 1), (34, 3))

VARIANTS = {
    "plain": {},
    "window": {"window": 20},
    "window of one": {"window": 1},
    "softcap": {"softcap": 0.7, "scale": 1.0},
    "sinks": {"sinks": True},
    "all": {"window": 5, "softcap": 0.7, "sinks": True},
}


@pytest.fixture(scope="module")
def interpreter():
    with interpreting_process() as process:
        yield process


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_variants(interpreter, variant):
    interpreter.submit(attention_cases.check, Case(MIXED, **variant)).result()


@pytest.mark.parametrize("variant", ["plain", "sinks", "all"])
@pytest.mark.parametrize("programs", [1, 3, 7, 40], ids=["one", "few", "whole", "cut"])
def test_sequences_of_one_chunk_and_of_several(interpreter, programs, variant):
    """Memory that nobody wrote is NaN: a single chunk must not be joined, nor several left."""
    case = Case(SINGLE_TOKENS, **VARIANTS[variant])
    interpreter.submit(attention_cases.check, case, (16, 16, 16), programs).result()


@pytest.mark.parametrize("sinks", [False, True])
def test_padding_has_zeros_or_no_rows(interpreter, sinks):
    shapes = ((0, 1), (60, 1), (0, 0), (9, 9), (0, 0), (20, 1), (0, 0))
    interpreter.submit(attention_cases.check, Case(shapes, sinks=sinks)).result()
    decodes = ((35, 1), (0, 1), (0, 1))
    interpreter.submit(attention_cases.check, Case(decodes, sinks=sinks)).result()


@pytest.mark.parametrize(("heads", "value_dim"), [(2, 16), (3, 256)], ids=["one round", "several"])
def test_many_chunks_are_joined_by_one_program(interpreter, heads, value_dim):
    case = Case(((700, 1),), heads=heads, kv_heads=1, value_dim=value_dim, sinks=True)
    interpreter.submit(attention_cases.check, case, (16, 16, 16), 40).result()


def test_layers_share_a_plan_which_the_first_of_them_waits_for(interpreter):
    new = interpreter.submit(attention_cases.newness_of_plans, [None, 8, None, 8, None]).result()
    assert new == [True, True, False, False, False]


@pytest.mark.parametrize("shapes", [DECODES, PREFILLS], ids=["decode", "prefill"])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2), (8, 2), (8, 1), (6, 2), (20, 1)])
def test_grouped_heads(interpreter, shapes, heads, kv_heads):
    case = Case(shapes, heads=heads, kv_heads=kv_heads)
    interpreter.submit(attention_cases.check, case, (16, 32, 32)).result()


@pytest.mark.parametrize(("key_dim", "value_dim"), [(64, 64), (20, 24), (40, 16), (96, 80)])
def test_dimensions_that_are_no_powers_of_two(interpreter, key_dim, value_dim):
    case = Case(MIXED, key_dim=key_dim, value_dim=value_dim)
    interpreter.submit(attention_cases.check, case).result()


@pytest.mark.parametrize("block_size", [1, 4, 32, 48])
def test_block_sizes(interpreter, block_size):
    interpreter.submit(attention_cases.check, Case(MIXED, block_size=block_size)).result()


@pytest.mark.parametrize("tiles", [(32, 32, 16), (64, 128, 64), (16, 128, 16)])
@pytest.mark.parametrize("window", [None, 5])
def test_tile_sizes(interpreter, tiles, window):
    case = Case(MIXED, window=window)
    interpreter.submit(attention_cases.check, case, tiles).result()


def test_a_long_window_has_tiles_that_all_queries_see(interpreter):
    case = Case(((230, 21), (150, 9)), heads=2, kv_heads=1, window=150)
    interpreter.submit(attention_cases.check, case).result()


@st.composite
def batches(draw: st.DrawFn) -> Case:
    lengths = draw(st.lists(st.integers(1, 45), min_size=1, max_size=3))
    shapes = tuple((n, draw(st.just(1) | st.just(n) | st.integers(1, n))) for n in lengths)
    window = draw(st.none() | st.integers(1, 30))
    return Case(shapes, window=window, sinks=draw(st.booleans()), seed=draw(st.integers(0, 2**31)))


@settings(deadline=None, max_examples=8)
@given(case=batches())
def test_random_batches(interpreter, case):
    interpreter.submit(attention_cases.check, case).result()


def test_the_torch_reference_agrees(interpreter):
    shapes = tuple(shape for shape in MIXED if shape[0])
    for case in (Case(shapes), Case(shapes, window=9, softcap=1.0, sinks=True)):
        interpreter.submit(attention_cases.check_torch_reference, case).result()


def test_steps_of_fixed_size_ask_the_engine_s_attention(interpreter):
    interpreter.submit(attention_cases.check_padded, Case(SINGLE_TOKENS), True).result()
    interpreter.submit(attention_cases.check_padded, Case(MIXED, window=20), False).result()


@settings(deadline=None, max_examples=20)
@given(
    lengths=st.lists(st.integers(0, 200), min_size=1, max_size=6),
    window=st.none() | st.integers(1, 100),
    keys=st.sampled_from([16, 64]),
    min_tokens=st.sampled_from([8, 24, 64]),
    programs=st.integers(1, 12),
)
def test_programs_cover_what_is_visible_once(
    interpreter, lengths, window, keys, min_tokens, programs
):
    shapes = [*((length, 1) for length in lengths), (9, 4)]
    plan = attention_cases.chunk_plan
    work, cleared = interpreter.submit(plan, shapes, window, keys, min_tokens, programs).result()
    assert sorted(cleared) == [row for row, length in enumerate(lengths) if length == 0]
    items = [item for program in work for item in program]
    places = [item[6] for item in items if item[5] > 1]
    assert len(set(places)) == len(places)
    for sequence, length in enumerate(lengths):
        own = [item for item in items if item[0] == sequence]
        visible = length if window is None else min(length, window)
        bounds = [length - visible, *(item[3] for item in own)]
        assert [item[2] for item in own] == bounds[:-1]
        assert bounds[-1] == length
        assert [item[1] for item in own] == [sequence] * len(own)
        assert [item[4:6] for item in own] == [[i, len(own)] for i in range(len(own))]
        assert [item[6] - item[4] for item in own] == [own[0][6]] * len(own) if own else not visible
        assert all(item[2] < item[3] for item in own)
    tokens = [sum(item[3] - item[2] for item in program) for program in work]
    fair = max(min_tokens, -(-sum(tokens) // programs))
    assert max(tokens) <= 2 * fair + keys, "shares are alike, or fewer programs have one chunk each"
    if max(map(len, work)) > 1:
        assert max(tokens) <= fair + 8 * len(lengths), "shares are alike but for rounding"


@settings(deadline=None, max_examples=10)
@given(count=st.integers(1, 12), length=st.integers(300, 900), more=st.integers(0, 12))
def test_like_sequences_have_like_chunks_with_a_program_each(interpreter, count, length, more):
    plan = attention_cases.chunk_plan
    shapes = [(length, 1)] * count
    work, _ = interpreter.submit(plan, shapes, None, 16, 16, count + more).result()
    items = [item for program in work for item in program]
    tokens = [item[3] - item[2] for item in items]
    assert max(map(len, work)) == 1
    assert {item[5] for item in items} == {len(items) // count}
    assert max(tokens) - min(tokens) <= 1
    assert 2 * len(items) >= count + more, "half of the programs at least have something to do"


@settings(deadline=None, max_examples=15)
@given(new_tokens=st.lists(st.integers(1, 50), min_size=1, max_size=6), queries=st.integers(1, 16))
def test_tiles_cover_the_queries_once(interpreter, new_tokens, queries):
    shapes = [(tokens + 3, tokens) for tokens in new_tokens]
    work = interpreter.submit(attention_cases.tile_plan, shapes, queries).result()
    covered = [
        (sequence, row + offset, position + offset)
        for sequence, row, position, count in work
        if sequence >= 0
        for offset in range(count)
    ]
    expected, row = [], 0
    for sequence, tokens in enumerate(new_tokens):
        if tokens > 1:
            expected += [(sequence, row + i, 3 + i) for i in range(tokens)]
        row += tokens
    assert covered == expected


@pytest.mark.parametrize("contiguous", [True, False])
def test_new_tokens_go_to_their_slots_and_padding_nowhere(interpreter, contiguous):
    written = attention_cases.written_slots
    interpreter.submit(written, [5, -1, 0, 15, -1], 20, 16, contiguous).result()


def test_refusals_say_what_to_do(interpreter):
    said = interpreter.submit(attention_cases.refusals).result()
    assert len(said) == 3
    for sentence, word in zip(said, ["contiguous", "stride", "blocks of 16"], strict=True):
        assert word in sentence
        assert sentence.count(".") - sentence.count("query.c") == 1
