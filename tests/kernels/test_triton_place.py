"""Matrices on their way into the arena: every bit in its place and no other touched."""

from __future__ import annotations

import pytest
import torch

from loramux_kernels.triton_lora.place import place_
from tests.kernels.interpreted import interpreting_process
from tests.kernels.lora_cases import same_bits

MATRICES = [
    (1, 1, True), (3, 1, True), (1, 3, True), (300, 17, True), (257, 16, True), (5, 100, True),
    (1, 1, False), (16, 600, False), (33, 7, False), (0, 4, True),
]  # fmt: skip


@pytest.fixture(scope="module")
def interpreter():
    with interpreting_process() as process:
        yield process


def arrange(matrices, dtype: torch.dtype, gap: int = 5):
    """Random matrices one after another, where they go, and what the arena must then hold."""
    torch.manual_seed(7)
    sources, records, position, first = [], [], 0, 3
    size = 3 + sum(rows * columns + gap for rows, columns, _ in matrices)
    arena = torch.full((size,), float("nan"))
    expected = arena.clone()
    for rows, columns, is_transposed in matrices:
        matrix = torch.randn(rows, columns).to(dtype)
        sources.append(matrix.flatten())
        records.append([position, rows, columns, first, rows if is_transposed else 0])
        placed = matrix.t() if is_transposed else matrix
        expected[first : first + matrix.numel()] = placed.flatten()
        position += matrix.numel()
        first += matrix.numel() + gap
    return arena, torch.cat(sources), torch.tensor(records), expected


def check_kernel(dtype: torch.dtype) -> None:
    from loramux_kernels.triton_lora.place import place_by_kernel_

    torch.set_num_threads(1)
    arena, source, records, expected = arrange(MATRICES, dtype)
    place_by_kernel_(arena, source, records)
    assert same_bits(arena, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_kernel_places_every_matrix(interpreter, dtype):
    interpreter.submit(check_kernel, dtype).result()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_so_does_the_reference(dtype):
    arena, source, records, expected = arrange(MATRICES, dtype)
    place_(arena, source, records)
    assert same_bits(arena, expected)


def test_rows_of_a_matrix_may_come_in_parts():
    """As they do where a matrix is larger than what crosses the bus at once."""
    torch.manual_seed(7)
    matrix, arena = torch.randn(9, 4), torch.zeros(36)
    for start, stop in [(0, 5), (5, 9)]:
        record = torch.tensor([[0, stop - start, 4, start, 9]])
        place_(arena, matrix[start:stop].flatten(), record)
    assert torch.equal(arena.view(4, 9), matrix.t())


def test_nothing_is_placed_where_there_is_nothing():
    arena = torch.zeros(4)
    place_(arena, torch.ones(4), torch.empty((0, 5), dtype=torch.int64))
    assert not arena.any()
