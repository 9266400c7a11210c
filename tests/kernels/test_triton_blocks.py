"""The Triton blocks under Triton's interpreter, held to float64 and to the torch references.

Float16 stands for all narrow types: the interpreter computes bfloat16 wrongly.
"""

from __future__ import annotations

import pytest
import torch

from tests.kernels import block_cases
from tests.kernels.block_cases import Attention, Place
from tests.kernels.interpreted import interpreting_process

pytest.importorskip("triton", reason="the GPU kernels need the extra gpu")

PLACES = [Place(), Place(torch.float16)]
SLOTS = [5, -1, 0, 11, -1, 2]


@pytest.fixture(scope="module")
def interpreter():
    with interpreting_process() as process:
        yield process


@pytest.fixture(params=PLACES, ids=["float32", "float16"])
def place(request):
    return request.param


@pytest.mark.parametrize("plus_one", [False, True], ids=["llama", "gemma"])
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (3, 96), (2, 2304), (5, 4096)])
def test_norms(interpreter, place, rows, width, plus_one):
    interpreter.submit(block_cases.check_norm, place, rows, width, plus_one).result()


@pytest.mark.parametrize("norms", [None, False, True], ids=["no norm", "qwen3", "gemma3"])
@pytest.mark.parametrize(
    ("dim", "rotary_dim"),
    [(80, 32), (96, 96), (128, 128), (256, 256), (20, 6)],
)
def test_dimensions_of_heads(interpreter, place, dim, rotary_dim, norms):
    attention = Attention(dim=dim, rotary_dim=rotary_dim, norms=norms)
    interpreter.submit(block_cases.check_rotation, place, attention, SLOTS).result()


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (8, 1), (9, 3), (32, 8), (20, 10)])
def test_counts_of_heads(interpreter, heads, kv_heads):
    attention = Attention(heads, kv_heads, 128, 128, norms=False)
    interpreter.submit(block_cases.check_rotation, Place(), attention, SLOTS).result()


@pytest.mark.parametrize("slots", [[-1, -1], [7]])
def test_padding_and_single_rows(interpreter, slots):
    interpreter.submit(block_cases.check_rotation, Place(), Attention(), slots).result()


@pytest.mark.parametrize("kind", ["silu", "gelu", "gelu_tanh"])
@pytest.mark.parametrize(("rows", "width"), [(1, 3), (4, 37), (2, 1500), (1, 2048)])
def test_activations(interpreter, place, rows, width, kind):
    interpreter.submit(block_cases.check_activation, place, rows, width, kind).result()


def test_no_rows(interpreter):
    interpreter.submit(block_cases.check_no_rows).result()


def test_what_would_be_misread_is_refused(interpreter):
    said = interpreter.submit(block_cases.refusals).result()
    assert [sentence.split(" ", 1)[0] for sentence in said] == [
        "x",
        "weight",
        "residual",
        "gate_up",
    ]
    assert "pass x.contiguous()" in said[0]


def test_the_rounding_of_the_other_family_is_noticed():
    """What the interpreted tests compare by tells the two orders apart."""
    place = Place(torch.float16)
    x, norm = place.random(4, 500), place.norm(500, plus_one=False)
    once = (block_cases.exact_norm(x, norm)).to(torch.float16)
    exact = block_cases.exact_norm(x, norm)
    with pytest.raises(AssertionError, match="not the reference's"):
        place.assert_near(once, block_cases.reference.rms_norm(x, norm), exact)
