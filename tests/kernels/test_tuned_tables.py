"""Which GPU runs which tiles: those measured on an H200 as they stand, others what fits them."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import product
from multiprocessing import get_context
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from loramux_kernels import gpu
from loramux_kernels.blocks import RMSNorm, reference, rms_norm
from loramux_kernels.gpu import GPU, INTERPRETER, gpu_of, unserved_device
from loramux_kernels.overlap import overlapping
from loramux_kernels.tuned import products
from loramux_kernels.tuned.attention import attention_tiles
from loramux_kernels.tuned.attention_shapes import DecodeTiles, PrefillTiles, Tiles
from loramux_kernels.tuned.lora import DECODE, MIXED, PREFILL, fitting
from tests.kernels.launches import Heads, launch_attention, launch_lora, updates_of_a_layer
from tests.kernels.shipped_tiles import GENERATIONS, compiled, compiles

pytest.importorskip("triton", reason="the GPU kernels need the extra gpu")

H200 = GENERATIONS["H100, H200"]
PATHS = {"decode": DECODE, "mixed": MIXED, "prefill": PREFILL}
CUDA = torch.device("cuda:0")


class OnGPU:
    """A tensor that says it is on a GPU."""

    is_cuda, device = True, CUDA

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tensor, name)


@pytest.fixture
def pretend(monkeypatch):
    """Take the first GPU, which need not be there, for some kind."""

    def take(kind: GPU) -> None:
        monkeypatch.setattr(gpu, "_read", lambda device: kind)
        gpu.runs_kernels.cache_clear()

    yield take
    gpu.runs_kernels.cache_clear()


@pytest.mark.parametrize(("path", "element_size"), [*product(PATHS, (2, 4))])
def test_lora_on_hopper_runs_what_was_measured_there(path, element_size):
    """Its stages fit into 220 KB, by which they were found."""
    path = PATHS[path]
    assert fitting(path, H200, element_size) == fitting(path, INTERPRETER, element_size) == path
    shrink = path.shrink
    for rank, slices in product((16, 32), (1, 2, 4)):
        columns = min(rank, path.rank) * min(slices, shrink.slices)
        step = (path.rows + columns) * shrink.features * element_size
        stages = max(2, min(shrink.stages, (220 << 10) // shrink.programs_per_sm // step))
        assert shrink.stages_on(H200, path.rows, columns, element_size) == stages


MEASURED = {
    (64, 2, 8): Tiles(DecodeTiles(64, 2, 4, 4), PrefillTiles(64, 64, 4, 3)),
    (80, 2, 1): Tiles(DecodeTiles(32, 2, 4, 4), PrefillTiles(64, 64, 4, 3)),
    (128, 2, 4): Tiles(DecodeTiles(32, 2, 4, 4), PrefillTiles(64, 64, 4, 3)),
    (256, 2, 2): Tiles(DecodeTiles(32, 4, 3, 3), PrefillTiles(128, 64, 8, 2, 1)),
    (128, 2, 48): Tiles(DecodeTiles(64, 8, 3, 1), PrefillTiles(128, 64, 8, 3, 1)),
    (256, 2, 64): Tiles(DecodeTiles(32, 8, 3, 1), PrefillTiles(128, 32, 8, 3, 1)),
    (64, 4, 4): Tiles(DecodeTiles(32, 4, 3, 2), PrefillTiles(64, 32, 4, 2)),
    (256, 4, 4): Tiles(DecodeTiles(32, 4, 3, 2), PrefillTiles(64, 32, 4, 2)),
}
"""By width, bytes of a value and query heads of a KV head."""


@pytest.mark.parametrize("heads", MEASURED)
def test_attention_on_hopper_runs_what_was_measured_there(heads):
    assert attention_tiles(H200, *heads) == attention_tiles(INTERPRETER, *heads) == MEASURED[heads]


@pytest.mark.parametrize("kind", GENERATIONS.values(), ids=GENERATIONS)
def test_two_stages_of_shrink_fit_every_generation(kind):
    for path, element_size in product(PATHS.values(), (2, 4)):
        shrink = fitting(path, kind, element_size).shrink
        columns = shrink.slices * path.rank
        assert 2 * shrink.step_bytes(path.rows, columns, element_size) <= kind.program_bytes
        assert not shrink.split_features % shrink.features
        assert shrink.features >= 32


def test_less_shared_memory_first_costs_stages_then_features_or_keys():
    small = GENERATIONS["RTX 3090"]
    assert fitting(PREFILL, small, 2) == PREFILL
    assert PREFILL.shrink.stages_on(small, 64, 128, 2) == 2
    assert PREFILL.shrink.stages_on(GENERATIONS["A100"], 64, 128, 2) == 3
    assert fitting(PREFILL, small, 4).shrink == replace(PREFILL.shrink, features=64)
    assert attention_tiles(GENERATIONS["A100"], 128, 2, 4) == Tiles(
        DecodeTiles(32, 2, 3, 4), PrefillTiles(64, 64, 4, 2)
    )
    assert attention_tiles(small, 128, 2, 4) == Tiles(
        DecodeTiles(32, 2, 2, 4), PrefillTiles(64, 32, 4, 2)
    )
    assert attention_tiles(GENERATIONS["B200"], 128, 2, 4) == MEASURED[128, 2, 4]


def test_an_engine_has_the_lora_tiles_that_fit_its_gpu(monkeypatch):
    small = GENERATIONS["RTX 3090"]
    monkeypatch.setattr(gpu, "INTERPRETER", small)
    updates = updates_of_a_layer(torch.float32, 16)
    assert updates._decode.shape == fitting(DECODE, small, 4)
    assert updates._prefill.shape == fitting(PREFILL, small, 4) != PREFILL


def test_heads_that_fit_no_gpu_have_no_tiles():
    assert attention_tiles(H200, 4096, 2, 1) is None
    assert attention_tiles(H200, 128, 4, 65) is None, "more query heads than a tile has rows"


def test_a_gpu_is_read_once_with_its_own_limits(monkeypatch):
    has = SimpleNamespace(major=8, minor=6, shared_memory_per_multiprocessor=100 << 10)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: has)
    assert gpu._read.__wrapped__(CUDA) == GENERATIONS["RTX 3090"]
    has.major, has.minor, has.shared_memory_per_multiprocessor = 9, 0, 228 << 10
    assert gpu._read.__wrapped__(CUDA) == H200
    assert gpu_of(torch.device("cpu")) is INTERPRETER


@pytest.mark.parametrize("kind", GENERATIONS.values(), ids=GENERATIONS)
def test_kernels_begin_early_from_hopper_on(pretend, kind):
    pretend(kind)
    assert ("launch_pdl" in overlapping(CUDA)) == (kind.capability >= (9, 0))
    assert overlapping(torch.device("cpu")) == {"OVERLAP": False}


@pytest.mark.parametrize("kind", GENERATIONS.values(), ids=GENERATIONS)
def test_products_of_few_rows_are_cublas_where_nobody_measured_others(pretend, monkeypatch, kind):
    pretend(kind)
    monkeypatch.setattr(products, "num_multiprocessors", lambda device: 132)
    x, weight = (OnGPU(torch.empty(n, 4096, dtype=torch.bfloat16)) for n in (16, 4096))
    assert (products.stream_tiles(x, weight) is not None) == (kind == H200)


def test_a_gpu_older_than_ampere_has_torch_compute(pretend, monkeypatch):
    pretend(GPU((7, 5), 64 << 10, programmatic_launch=False))
    assert unserved_device(CUDA) == "the GPU's compute capability is 7.5, less than 8.0"
    monkeypatch.setattr(reference, "rms_norm", lambda x, norm: "torch's")
    assert rms_norm(OnGPU(torch.empty(3, 8)), RMSNorm(torch.empty(8), 1e-5)) == "torch's"


@pytest.fixture(scope="module")
def compiler():
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=compiles) as process:
        yield process


LARGEST = [
    ("A100", partial(launch_attention, Heads(256, 16, 8)), "attend_queries"),
    ("RTX 3090", partial(launch_attention, Heads(128, 32, 8)), "attend"),
    ("RTX 3090", partial(launch_lora, torch.bfloat16, 64, (8192,)), "_shrink"),
    ("B200", partial(launch_attention, Heads(128, 32, 8)), "attend_queries"),
]
"""Of those that ``python -m tests.kernels.shipped_tiles`` compiles, all of them."""


@pytest.mark.parametrize("case", LARGEST, ids=lambda case: f"{case[0]}: {case[2]}")
def test_the_largest_tiles_can_be_launched_elsewhere(compiler, case):
    name, launch, kernels = case
    kind = GENERATIONS[name]
    found = compiler.submit(compiled, kind, launch, kernels).result()
    assert found
    for kernel in found:
        assert kernel.fits(kind), kernel
