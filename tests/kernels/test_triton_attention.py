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
@pytest.mark.parametrize("goal", [1, 7, 40], ids=["all whole", "some whole", "all cut"])
def test_sequences_of_one_chunk_and_of_several(interpreter, goal, variant):
    """Memory that nobody wrote is NaN: a single chunk must not be joined, nor several left."""
    case = Case(SINGLE_TOKENS, **VARIANTS[variant])
    interpreter.submit(attention_cases.check, case, (16, 16, 16), goal).result()


@pytest.mark.parametrize("sinks", [False, True])
def test_padding_has_zeros_or_no_rows(interpreter, sinks):
    shapes = ((0, 1), (60, 1), (0, 0), (9, 9), (0, 0), (20, 1), (0, 0))
    interpreter.submit(attention_cases.check, Case(shapes, sinks=sinks)).result()
    decodes = ((35, 1), (0, 1), (0, 1))
    interpreter.submit(attention_cases.check, Case(decodes, sinks=sinks)).result()


def test_many_chunks_are_joined_64_at_a_time(interpreter):
    case = Case(((1200, 1),), heads=2, kv_heads=1, sinks=True)
    interpreter.submit(attention_cases.check, case, (16, 16, 16), 80).result()


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


@settings(deadline=None, max_examples=15)
@given(
    lengths=st.lists(st.integers(0, 200), min_size=1, max_size=6),
    window=st.none() | st.integers(1, 100),
    keys=st.sampled_from([16, 64]),
    min_tiles=st.integers(1, 3),
    goal=st.integers(1, 20),
)
def test_chunks_cover_what_is_visible_once(interpreter, lengths, window, keys, min_tiles, goal):
    shapes = [(length, 1) for length in lengths] + [(9, 4)]
    plan = attention_cases.chunk_plan
    work, first = interpreter.submit(plan, shapes, window, keys, min_tiles, goal).result()
    assert len(work) == goal + len(lengths)
    for sequence, length in enumerate(lengths):
        items = work[first[sequence] : first[sequence + 1]]
        assert [item[:2] for item in items] == [[sequence, sequence]] * len(items)
        begins, ends = [item[2] for item in items], [item[3] for item in items]
        visible = length if window is None else min(length, window)
        bounds = [length - visible, *ends]
        assert begins == bounds[:-1]
        assert bounds[-1] == length
        assert all(begin < end for begin, end in zip(begins, ends, strict=True))
        assert [item[4:] for item in items] == [[i, len(items)] for i in range(len(items))]
    assert first[-1] == first[-2], "a chunk of several tokens is not decoded"
    assert all(item[0] == -1 for item in work[first[-1] :])


@settings(deadline=None, max_examples=10)
@given(count=st.integers(1, 12), tiles=st.integers(1, 40), goal=st.integers(1, 20))
def test_like_sequences_stay_whole_where_they_fill_half_of_the_goal(
    interpreter, count, tiles, goal
):
    shapes = [(tiles * 16 - tiles % 16, 1)] * count
    work, first = interpreter.submit(attention_cases.chunk_plan, shapes, None, 16, 1, goal).result()
    chunks = work[0][5]
    assert first == [chunks * index for index in range(count + 1)]
    assert count * chunks <= max(goal, count), "no more programs than were asked for"
    if 2 * count > goal:
        assert chunks == 1
    elif tiles >= goal:
        assert 2 * count * chunks >= goal, "half of what was asked for at least"


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
