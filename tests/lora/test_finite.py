"""Infinities and NaNs are found by bits exactly where torch finds them by value."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loramux.lora.checkpoint.finite import FloatRuns, holds_non_finite
from loramux.lora.checkpoint.safetensors_header import TensorEntry

INTEGERS = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}
VALUES = [0.0, -0.0, 1.0, -1.0, float("inf"), float("-inf"), float("nan")]


def bytes_of(tensor: torch.Tensor) -> np.ndarray:
    return tensor.contiguous().view(torch.uint8).numpy().reshape(-1)


def assert_as_torch(tensor: torch.Tensor) -> None:
    """All finite elements together pass, and each of the others is found on its own."""
    is_finite = tensor.isfinite()
    assert not holds_non_finite(bytes_of(tensor[is_finite]), tensor.dtype)
    assert all(holds_non_finite(bytes_of(one), tensor.dtype) for one in tensor[~is_finite].split(1))
    assert is_finite.any()
    assert not is_finite.all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_half_precision_number(dtype):
    assert_as_torch(torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wider_numbers_with_every_sign_and_exponent(dtype):
    mantissa = {torch.float32: 23, torch.float64: 52}[dtype]
    width = 8 * dtype.itemsize
    exponents = torch.arange(-(2 ** (width - 1 - mantissa)), 2 ** (width - 1 - mantissa))
    patterns = torch.cat([
        (exponents << mantissa) + low for low in (0, 1, 2 ** (mantissa - 1), 2**mantissa - 1)
    ])  # fmt: skip
    assert_as_torch(patterns.to(INTEGERS[dtype]).view(dtype))


@given(st.data(), st.sampled_from(list(INTEGERS)), st.integers(1, 70))
def test_arrays_of_any_length(data, dtype, size):
    bound = 2 ** (8 * dtype.itemsize - 1)
    patterns = data.draw(st.lists(st.integers(-bound, bound - 1), min_size=size, max_size=size))
    tensor = torch.tensor(patterns, dtype=INTEGERS[dtype]).view(dtype)
    assert holds_non_finite(bytes_of(tensor), dtype) == (not tensor.isfinite().all())


@pytest.mark.parametrize("dtype", list(INTEGERS))
@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("position", [0, 1, 511, 777, 1023])
def test_one_value_among_many(dtype, value, position):
    tensor = torch.linspace(-100, 100, 1024).to(dtype)
    tensor[position] = value
    assert holds_non_finite(bytes_of(tensor), dtype) == (not tensor.isfinite().all())


def test_nothing_is_finite():
    assert not holds_non_finite(np.empty(0, np.uint8), torch.float32)


tensors = st.lists(
    st.tuples(st.sampled_from(list(INTEGERS)), st.lists(st.sampled_from(VALUES), min_size=1)),
    max_size=6,
)


@given(tensors, st.integers(0, 100), st.integers(0, 3), st.integers(1, 8))
def test_no_part_of_a_file_is_passed_over(tensors, origin, shift, words):
    """Parts of any size, runs of any types: what is not finite is suspected, and not much else."""
    entries, content = [], torch.zeros(shift, dtype=torch.uint8)
    for dtype, values in [(torch.float16, [0.0])] * shift + tensors:
        raw = torch.tensor(values, dtype=torch.float64).to(dtype).view(torch.uint8)
        start = origin + content.numel()
        entries.append(TensorEntry(dtype, (len(values),), start, start + raw.numel()))
        content = torch.cat([content, raw])
    runs = FloatRuns.of(entries, origin)
    wrong = [entry for entry, (_, values) in zip(entries[shift:], tensors, strict=True)
             if not np.isfinite(values).all()]  # fmt: skip
    parts = range(0, content.numel(), 8 * words)
    suspected = [
        p for p in parts if runs.may_hold_non_finite(content.numpy()[p : p + 8 * words], p)
    ]
    for entry in wrong:
        assert any(p < entry.end - origin and entry.start - origin < p + 8 * words
                   for p in suspected)  # fmt: skip
    assert wrong or not suspected or not runs.is_aligned
