"""Kernels that add LoRA updates on their way, through Triton's interpreter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.kernels import fused_lora_cases
from tests.kernels.block_cases import Attention, Place
from tests.kernels.fused_lora_cases import Step
from tests.kernels.interpreted import interpreting_process
from tests.kernels.test_triton_lora import DECODE_TILES, MIXED_TILES, PREFILL_TILES

pytest.importorskip("triton", reason="the GPU kernels need the extra gpu")

PLACES = {"float32": Place(), "float16": Place(torch.float16)}
PATHS = {
    path: replace(
        tiles,
        fused=replace(
            tiles.fused,
            activation=replace(tiles.fused.activation, columns=32, programs_per_sm=3, **more),
            rotation=replace(tiles.fused.rotation, heads=2, programs_per_sm=3),
        ),
    )
    for path, tiles, more in (
        ("decode", DECODE_TILES, {"steps": 2}),
        ("prefill", PREFILL_TILES, {}),
    )
}
SHORT = replace(MIXED_TILES.short, fused=replace(PATHS["decode"].fused, max_rank=64))
MIXED = replace(PATHS["prefill"], short=SHORT, short_rows=1024)
ALL_PATHS = PATHS | {"mixed": MIXED}
RANKS = [1, 3, 8, 16, 17, 33, 64]
SEGMENTS = [(2, [6, 1]), (0, [2, 3]), (1, [5]), (3, [8])]
"""Of 10 rows: 0, 4, 7 and 9 have no adapter, and that of 8 is empty."""
TWO_ROWS_EACH = [(slot, [2 * slot + 1, 2 * slot + 2]) for slot in range(len(RANKS))]


@pytest.fixture(scope="module")
def interpreter():
    with interpreting_process() as process:
        yield process


def activate(widths, ranks, segments, num_rows, path, kind="silu", place="float32", padding=0):
    torch.set_num_threads(1)
    torch.manual_seed(sum(widths))
    arguments = (24, widths, ranks, segments, num_rows, ALL_PATHS[path], PLACES[place], padding)
    fused_lora_cases.check_activation(Step(*arguments), kind)


def normalize(widths, ranks, segments, num_rows, path, plus_one, place="float32", padding=0):
    torch.set_num_threads(1)
    torch.manual_seed(sum(widths))
    arguments = (24, widths, ranks, segments, num_rows, ALL_PATHS[path], PLACES[place], padding)
    fused_lora_cases.check_norm(Step(*arguments), plus_one)


def rotate(attention, ranks, segments, num_rows, path, place="float32", padding=0):
    torch.set_num_threads(1)
    torch.manual_seed(attention.dim)
    widths = fused_lora_cases.packed_widths(attention.layout(Place()))
    widths = widths if len(ranks[0]) == 3 else [sum(widths)]
    arguments = (24, widths, ranks, segments, num_rows, ALL_PATHS[path], PLACES[place], padding)
    fused_lora_cases.check_rotation(Step(*arguments), attention)


@pytest.mark.parametrize(
    ("path", "width", "place"),
    [("decode", 37, "float32"), ("decode", 3, "float16"), ("prefill", 96, "float16")],
)
def test_activation(interpreter, path, width, place):
    """Also adapters that leave gates, or what they multiply, or both alone."""
    ranks = [[5, 17], [0, 3], [8, 0], [0, 0]]
    arguments = ([width, width], ranks, SEGMENTS, 10, path, "silu", place, 3)
    interpreter.submit(activate, *arguments).result()


@pytest.mark.parametrize("kind", ["gelu", "gelu_tanh"])
def test_other_activations(interpreter, kind):
    interpreter.submit(activate, [20, 20], [[4, 2]], [(0, [1])], 3, "decode", kind).result()


@pytest.mark.parametrize("path", PATHS)
def test_activation_of_every_rank(interpreter, path):
    ranks = [[rank, rank] for rank in RANKS]
    interpreter.submit(activate, [8, 8], ranks, TWO_ROWS_EACH, 22, path).result()


def test_ranks_that_take_several_products(interpreter):
    """In decodes; updates of prompts are then added by a kernel of their own."""
    segments = [(0, [1]), (1, [3, 4])]
    interpreter.submit(activate, [8, 8], [[100, 70], [9, 65]], segments, 6, "decode").result()


def test_gates_and_the_rest_as_one_slice(interpreter):
    """As Phi-3 has them."""
    arguments = ([72], [[5], [20]], [(0, [1]), (1, [3, 2])], 6, "decode")
    interpreter.submit(activate, *arguments).result()


@pytest.mark.parametrize("path", PATHS)
def test_many_rows_of_few_adapters(interpreter, path):
    segments = [(1, range(2, 39)), (0, [*range(40, 58), 0])]
    interpreter.submit(activate, [12, 12], [[3, 3], [20, 1]], segments, 75, path).result()


def test_a_prompt_beside_single_tokens(interpreter):
    segments = [(1, range(2, 22)), (0, [23]), (2, [0])]
    ranks = [[3, 3], [20, 1], [5, 0]]
    interpreter.submit(activate, [12, 12], ranks, segments, 26, "mixed", padding=2).result()
    heads, ranks = Attention(2, 1, 8, 8), [[3] * 3, [20, 1, 0], [5] * 3]
    interpreter.submit(rotate, heads, ranks, segments, 26, "mixed", padding=2).result()


def test_many_adapters(interpreter):
    segments = [(slot, [11 - slot]) for slot in range(10)]
    ranks = [[1 + slot % 3, 2] for slot in range(10)]
    interpreter.submit(activate, [8, 8], ranks, segments, 13, "decode").result()


@pytest.mark.parametrize("segments", [[], [(0, range(5))]])
def test_nobody_or_everybody_has_an_adapter(interpreter, segments):
    interpreter.submit(activate, [16, 16], [[3, 3]], segments, 5, "decode", padding=2).result()
    attention = Attention(2, 1, 8, 8)
    interpreter.submit(rotate, attention, [[3, 3, 3]], segments, 5, "decode", padding=2).result()


@pytest.mark.parametrize(
    ("width", "plus_one", "path", "place"),
    [
        (37, False, "prefill", "float32"),
        (96, True, "prefill", "float16"),
        (37, False, "decode", "float32"),
    ],
)
def test_norms(interpreter, width, plus_one, path, place):
    """Of decodes: by expand and the plain norm."""
    arguments = ([width], [[5], [17], [8], [0]], SEGMENTS, 10, path, plus_one, place, 3)
    interpreter.submit(normalize, *arguments).result()


def test_norm_of_every_rank(interpreter):
    ranks = [[rank] for rank in RANKS]
    interpreter.submit(normalize, [24], ranks, TWO_ROWS_EACH, 22, "prefill", False).result()


def test_norms_of_many_rows(interpreter):
    """The width is more than the columns that a program takes at a time."""
    segments = [(1, range(2, 39)), (0, [*range(40, 58), 0])]
    interpreter.submit(normalize, [72], [[3], [20]], segments, 75, "prefill", True).result()


@pytest.mark.parametrize("segments", [[], [(0, range(5))]])
def test_norms_of_nobody_or_everybody(interpreter, segments):
    interpreter.submit(normalize, [16], [[3]], segments, 5, "prefill", False, padding=2).result()


@pytest.mark.parametrize(
    ("dim", "rotary_dim", "norms", "place"),
    [
        (16, 16, None, "float16"),
        (16, 16, False, "float32"),
        (20, 6, True, "float16"),
    ],
)
def test_rotation(interpreter, dim, rotary_dim, norms, place):
    """Also adapters that leave some of queries, keys and values alone; norms of both kinds."""
    ranks = [[5, 17, 2], [0, 3, 0], [8, 0, 1], [0, 0, 0]]
    attention = Attention(dim=dim, rotary_dim=rotary_dim, norms=norms)
    interpreter.submit(rotate, attention, ranks, SEGMENTS, 10, "decode", place, 3).result()


@pytest.mark.parametrize(("heads", "kv_heads", "path"), [(1, 1, "decode"), (3, 3, "prefill")])
def test_counts_of_heads(interpreter, heads, kv_heads, path):
    ranks = [[5, 17, 2], [0, 3, 0], [8, 0, 1], [0, 0, 0]]
    attention = Attention(heads, kv_heads, 8, 8)
    interpreter.submit(rotate, attention, ranks, SEGMENTS, 10, path).result()


def test_rotation_of_several_ranks(interpreter):
    ranks = [[rank] * 3 for rank in RANKS[::2]]
    segments = TWO_ROWS_EACH[: len(ranks)]
    interpreter.submit(rotate, Attention(1, 1, 8, 8), ranks, segments, 10, "prefill").result()


def test_queries_keys_and_values_as_one_slice(interpreter):
    """As Phi-3 has them."""
    arguments = (Attention(3, 1, 20, 12), [[5], [20]], [(0, [1]), (1, [3, 2])], 6, "decode")
    interpreter.submit(rotate, *arguments).result()
