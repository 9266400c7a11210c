"""LoRA kernels through Triton's interpreter, held to float64 and to the last bit of other rows."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from unittest import mock

import pytest
import torch
from torch import Tensor

from loramux_kernels.triton_lora import DECODE, PREFILL, LoRATiles
from loramux_kernels.tuned.lora import MIXED
from tests.kernels.interpreted import interpreting_process
from tests.kernels.lora_cases import Layer, Segments, same_bits

AWKWARD = [-0.0, 0.0, float("inf"), float("-inf"), float("nan"), 1e-45, -3.4e38]


def small(tiles: LoRATiles, features: int = 16, splits: int = 3, programs: int = 3) -> LoRATiles:
    """The same path with few programs and tiles, so that small shapes take every branch."""
    shrink = replace(
        tiles.shrink,
        features=features, split_features=features, max_splits=splits, programs_per_sm=programs,
    )  # fmt: skip
    expand = replace(tiles.expand, columns=32, programs_per_sm=programs)
    return replace(tiles, shrink=shrink, expand=expand)


DECODE_TILES = small(DECODE)
PREFILL_TILES = replace(small(PREFILL), rows=32, rank=16, dense=False, short=None)
PREFILL_TILES = replace(PREFILL_TILES, expand=replace(PREFILL_TILES.expand, rows=16))
MIXED_TILES = replace(PREFILL_TILES, short=replace(small(MIXED), rows=16), short_rows=1024)
PATHS = {"decode": DECODE_TILES, "prefill": PREFILL_TILES, "mixed": MIXED_TILES}
LONG_AND_SHORT = ("decode", "prefill")
"""Mixed steps take the path of long ones with other tiles: a few tests are enough for them."""


@pytest.fixture(scope="module")
def interpreter():
    with interpreting_process() as process:
        yield process


def run(process: ProcessPoolExecutor, check, *arguments) -> None:
    process.submit(_seeded, check, *arguments).result()


def _seeded(check, *arguments) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(11)
    check(*arguments)


def apply(layer: Layer, index: int, work, y: Tensor, x: Tensor, segments: Segments) -> None:
    from loramux_kernels.triton_lora import apply_lora_

    work.fill(segments)
    apply_lora_(y, x, layer.projections[index], work)


def check_layer(
    shapes, ranks, segments: Segments, num_rows: int, path: str, dtype=torch.float32
) -> None:
    layer = Layer(shapes, ranks, dtype)
    work = layer.work(PATHS[path], num_rows)
    for index, projection in enumerate(layer.projections):
        x = torch.randn(num_rows, projection.in_features).to(dtype)
        before = torch.randn(num_rows, projection.out_features).to(dtype)
        y = before.clone()
        apply(layer, index, work, y, x, segments)
        layer.check(index, y, before, x, segments)


@pytest.mark.parametrize("path", LONG_AND_SHORT)
@pytest.mark.parametrize("rank", [1, 3, 8, 16, 17, 33, 64, 100, 255, 256])
def test_every_rank(interpreter, path, rank):
    run(interpreter, check_layer, [(40, [24])], [[rank]], [(0, [3, 0])], 5, path)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "shapes",
    [
        [(48, [32, 16, 16])],
        [(43, [33, 7])],
        [(16, [1, 2, 3, 4, 5])],
        [(168, [24])],
        [(24, [168])],
    ],
)
def test_slices_share_one_input(interpreter, path, shapes):
    """Also slices that an adapter leaves alone, widths and inputs that nothing divides."""
    count = len(shapes[0][1])
    ranks = [[2 + site for site in range(count)], [0] * (count - 1) + [5], [9] + [0] * (count - 1)]
    segments = [(2, [6, 1]), (0, [2, 3]), (1, [5])]
    run(interpreter, check_layer, shapes, ranks, segments, 8, path)


@pytest.mark.parametrize("path", LONG_AND_SHORT)
def test_a_layer_of_projections(interpreter, path):
    shapes = [(24, [16, 8, 8]), (16, [24]), (24, [40, 40]), (40, [24])]
    ranks = [[4] * 7, [0, 3, 0, 5, 0, 7, 0], [16, 0, 16, 0, 0, 0, 2]]
    run(interpreter, check_layer, shapes, ranks, [(1, [0]), (2, [4, 2])], 5, path)


@pytest.mark.parametrize("path", PATHS)
def test_many_rows_of_few_adapters(interpreter, path):
    segments = [(1, range(2, 39)), (0, [*range(40, 58), 0])]
    run(interpreter, check_layer, [(20, [12])], [[3], [20]], segments, 60, path)


def test_many_adapters(interpreter):
    ranks = [[1 + slot % 9] for slot in range(40)]
    segments = [(slot, [41 - slot]) for slot in range(40)]
    run(interpreter, check_layer, [(16, [16])], ranks, segments, 42, "decode")


@pytest.mark.parametrize("path", LONG_AND_SHORT)
def test_half_precision_rounds_once(interpreter, path):
    """float16, in which the interpreter is right; what is held to is sharper than its own error
    would be had the rank vector been rounded to it."""
    shapes, ranks = [(64, [24, 8])], [[5, 17], [16, 0]]
    segments = [(0, [1, 2]), (1, [4])]
    run(interpreter, check_layer, shapes, ranks, segments, 6, path, torch.float16)


def check_refilled(path: str) -> None:
    """One work list, as a captured graph would see it, over steps that grow and shrink."""
    layer = Layer([(24, [16, 16])], [[3, 3], [20, 0], [1, 8]], torch.float32)
    work = layer.work(PATHS[path], 24)
    steps: list[Segments] = [
        [(0, range(24))],
        [(2, [5])],
        [],
        [(1, [0, 2]), (2, [1])],
        [(3, [0])],
        [(0, [7]), (1, [6]), (0, [3])],
    ]
    for segments in steps:
        x, before = torch.randn(24, 24), torch.randn(24, 32)
        y = before.clone()
        apply(layer, 0, work, y, x, segments)
        layer.check(0, y, before, x, [segment for segment in segments if segment[0] < 3])


@pytest.mark.parametrize("path", PATHS)
def test_one_work_list_serves_step_after_step(interpreter, path):
    run(interpreter, check_refilled, path)


def check_replaced() -> None:
    layer = Layer([(24, [16])], [[3], [9]], torch.float32)
    work = layer.work(DECODE_TILES, 8)
    x, before = torch.randn(4, 24), torch.randn(4, 16)
    layer.table.clear(0)
    y = before.clone()
    apply(layer, 0, work, y, x, [(0, [0, 1])])
    assert same_bits(y, before), "an empty slot is the base model"
    layer.place(0)
    apply(layer, 0, work, y, x, [(0, [0, 1]), (1, [3])])
    layer.check(0, y, before, x, [(0, [0, 1]), (1, [3])])


def test_a_slot_takes_another_adapter(interpreter):
    run(interpreter, check_replaced)


def check_ahead(num_rows: int, begin_at: int) -> None:
    """What was begun is used, and only for the product that it was begun for."""
    from loramux_kernels.triton_lora import rank_vectors

    with mock.patch.object(rank_vectors, "AHEAD_ROWS", begin_at):
        compute_ahead(num_rows, is_ahead=num_rows >= begin_at)


def compute_ahead(num_rows: int, is_ahead: bool) -> None:
    from loramux_kernels.triton_lora import apply_lora_, begin_rank_vectors

    layer = Layer([(24, [16]), (24, [16])], [[3, 5], [20, 2]], torch.float32)
    work = layer.work(PREFILL_TILES, num_rows)
    segments = [(0, [0, 3]), (1, [2])]
    x, before = torch.randn(num_rows, 24), torch.randn(num_rows, 16)
    first, second = layer.projections
    work.fill(segments)
    begin_rank_vectors(x, first, work)
    assert (work.begun is first) == is_ahead
    y = before.clone()
    if is_ahead:
        apply_lora_(y, torch.full_like(x, float("nan")), first, work)
        layer.check(0, y, before, x, segments)
    begin_rank_vectors(torch.full_like(x, float("nan")), first, work)  # and the step fails
    for index, projection in enumerate((first, second)):
        for begins in (True, False):
            y = before.clone()
            if begins:
                begin_rank_vectors(x, projection, work)
            apply_lora_(y, x, projection, work)
            layer.check(index, y, before, x, segments)


@pytest.mark.parametrize("begin_at", [4, 5, 6])
def test_rank_vectors_ahead_of_the_product(interpreter, begin_at):
    run(interpreter, check_ahead, 5, begin_at)


def check_bystanders(path: str, value: float) -> None:
    """Adapters of NaN, of infinities and of weights that overflow beside rows of none."""
    layer = Layer([(20, [7, 9])], [[4, 4], [4, 4], [4, 0], [3, 3]], torch.float32)
    for slot, broken in enumerate((float("nan"), float("inf"), 3e38)):
        for site in range(2):
            pair = layer.table.pair(slot, site, 20, (7, 9)[site])
            if pair is not None:
                pair[0].fill_(broken)
                pair[1].fill_(broken)
    segments = [(0, [1]), (1, [3]), (2, [4, 5])]
    x = torch.full((9, 20), value)
    x[7] = torch.randn(20)
    values = torch.tensor(AWKWARD)
    before = values[torch.arange(9 * 16).view(9, 16) % len(values)].clone()
    before[7] = torch.randn(16)
    y = before.clone()
    apply(layer, 0, layer.work(PATHS[path], 9), y, x, [*segments, (3, [7])])
    assert not y[[1, 3]].isfinite().any()
    assert same_bits(y[[0, 2, 6, 8]], before[[0, 2, 6, 8]])
    assert same_bits(y[4:6, 7:], before[4:6, 7:])
    layer.check(0, y[7:8], before[7:8], x[7:8], [(3, [0])])


@pytest.mark.parametrize("path", LONG_AND_SHORT)
@pytest.mark.parametrize("value", [1.0, float("nan"), float("inf")])
def test_broken_adapters_harm_themselves_alone(interpreter, path, value):
    run(interpreter, check_bystanders, path, value)


def check_overflow() -> None:
    """A rank vector that float16 does not hold is infinite there, not NaN."""
    layer = Layer([(16, [8])], [[1]], torch.float16)
    a, b, _ = layer.table.pair(0, 0, 16, 8)
    a.fill_(600.0)
    b.fill_(1.0)
    y = torch.zeros(1, 8, dtype=torch.float16)
    x = torch.full((1, 16), 600.0, dtype=torch.float16)
    apply(layer, 0, layer.work(DECODE_TILES, 1), y, x, [(0, [0])])
    assert y.isposinf().all()


def test_an_overflowing_rank_vector_is_infinite(interpreter):
    run(interpreter, check_overflow)


def check_neighbours() -> None:
    """A row's bits depend neither on its neighbours nor on how many programs share the work."""
    layer = Layer([(80, [24, 8])], [[7, 7], [16, 16], [40, 3]], torch.float32)
    x, before = torch.randn(20, 80), torch.randn(20, 32)
    alone = before.clone()
    apply(layer, 0, layer.work(DECODE_TILES, 20), alone, x, [(1, [9])])
    crowd: Segments = [(0, [0, 1]), (1, [*range(2, 9), 19, 9]), (2, range(10, 18))]
    for programs in (1, 2, 7):
        y = before.clone()
        work = layer.work(small(DECODE, programs=programs), 20)
        apply(layer, 0, work, y, x, crowd)
        assert same_bits(y[9], alone[9])


def test_a_row_does_not_depend_on_its_neighbours(interpreter):
    run(interpreter, check_neighbours)


def check_strides() -> None:
    """Rows of wider tensors, as slices of packed outputs are."""
    layer = Layer([(24, [16])], [[5]], torch.float32)
    wide_x, wide_y = torch.randn(6, 40), torch.randn(6, 50)
    before = wide_y.clone()
    x, y = wide_x[:, 8:32], wide_y[:, 30:46]
    apply(layer, 0, layer.work(DECODE_TILES, 6), y, x, [(0, [4, 2])])
    layer.check(0, y, before[:, 30:46], x, [(0, [4, 2])])
    assert same_bits(wide_y[:, :30], before[:, :30])
    assert same_bits(wide_y[:, 46:], before[:, 46:])


def test_rows_may_lie_in_wider_tensors(interpreter):
    run(interpreter, check_strides)
