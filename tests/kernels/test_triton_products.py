"""The product of few rows, under Triton's interpreter, held to float64; and who computes which."""

from __future__ import annotations

import pytest
import torch

from loramux_kernels.products import linear
from tests.kernels import product_cases
from tests.kernels.block_cases import Place
from tests.kernels.interpreted import interpreting_process

pytest.importorskip("triton", reason="the GPU kernels need the extra gpu")


@pytest.fixture(scope="module")
def interpreter():
    with interpreting_process() as process:
        yield process


@pytest.mark.parametrize("has_bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize(
    ("rows", "shape"), [(1, (70, 300)), (16, (64, 256)), (33, (40, 520)), (64, (7, 64))]
)
def test_products(interpreter, rows, shape, has_bias):
    check = product_cases.check_product
    interpreter.submit(check, Place(), rows, shape, has_bias).result()


def test_misread_tensors_are_refused(interpreter):
    rows, weight, bias = interpreter.submit(product_cases.refusals).result()
    assert "17 rows" in rows
    assert "weight has shape [6, 7]" in weight
    assert "bias has shape [5]" in bias


def test_a_cpu_is_given_the_product_of_torch():
    x, weight, bias = torch.randn(3, 8), torch.randn(5, 8), torch.randn(5)
    assert torch.equal(linear(x, weight, bias), torch.nn.functional.linear(x, weight, bias))


@pytest.mark.parametrize(
    ("rows", "out_features", "columns"),
    [
        (1, 28672, 64),
        (16, 4096, 64),
        (17, 6144, 64),
        (64, 28672, 128),
        (64, 6144, 64),
        (64, 4096, 32),
        (65, 4096, None),
        (16, 1024, None),
        (64, 2048, None),
        (0, 4096, None),
    ],
)
def test_tiles_give_all_multiprocessors_of_an_h200_something_to_read(rows, out_features, columns):
    from loramux_kernels.tuned.products import choose_tiles

    tiles = choose_tiles(rows, out_features, multiprocessors=132)
    assert (None if tiles is None else tiles.columns) == columns
    assert tiles is None or tiles.rows >= rows
