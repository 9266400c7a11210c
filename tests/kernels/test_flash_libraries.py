"""FlashInfer and FlashAttention as the engine calls them, over fakes of what they document."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch

from loramux.engine.args import EngineArgs
from loramux.engine.running.attention import PaddedBatch, TorchAttention, TritonAttention
from loramux.engine.running.attention_choice import choose_attention
from loramux.engine.running.library_attention import FlashAttention, FlashInferAttention, _tell
from loramux.errors import InvalidRequestError
from loramux.models.attention import KVShape
from loramux_kernels import gpu
from loramux_kernels.attention_libraries import library
from loramux_kernels.attention_libraries.flash_attention import FlashAttention2, FlashAttention3
from loramux_kernels.attention_libraries.flashinfer import FlashInfer
from loramux_kernels.paged_attention import AttentionOptions
from tests.kernels import fake_flashinfer
from tests.kernels.attention_cases import Case
from tests.kernels.fake_flash_attn import FlashAttn2, FlashAttn3
from tests.kernels.flash_cases import GARBAGE, layout_of, stored_batch

pytest.importorskip("triton", reason="the libraries stand on what the extra gpu brings")

CPU = torch.device("cpu")
MAX_SEQUENCES = 9
BLOCK_SIZES = {"flash-attn 2": 256, "FlashAttention 3": 16, "FlashInfer": 16}


def make_backend(name: str) -> TritonAttention:
    if name == "FlashInfer":
        return FlashInferAttention(FlashInfer(fake_flashinfer, CPU), MAX_SEQUENCES)
    kind, fake = {
        "flash-attn 2": (FlashAttention2, FlashAttn2),
        "FlashAttention 3": (FlashAttention3, FlashAttn3),
    }[name]
    return FlashAttention(kind(fake), MAX_SEQUENCES)


def assert_near(out: torch.Tensor, expected: torch.Tensor) -> None:
    rounding = 2e-3 if out.dtype == torch.float16 else 1e-2
    torch.testing.assert_close(out.double(), expected, atol=rounding, rtol=rounding)


DECODES = ((1, 1), (16, 1), (50, 1), (300, 1), (17, 1), (257, 1))
MIXED = ((40, 21), (33, 1), (5, 5), (270, 3), (1, 1), (34, 34))
CASES = {
    "decodes": Case(DECODES, key_dim=64, value_dim=64),
    "mixed": Case(MIXED, key_dim=64, value_dim=64),
    "one token": Case(((1, 1),), key_dim=64, value_dim=64),
    "window": Case(MIXED, key_dim=64, value_dim=64, window=20),
    "decodes with a window of one": Case(DECODES, key_dim=64, value_dim=64, window=1),
    "soft cap": Case(MIXED, key_dim=64, value_dim=64, softcap=0.7, scale=1.0),
    "decodes with all": Case(
        DECODES, heads=6, kv_heads=1, key_dim=64, value_dim=64, window=9, softcap=0.7, scale=0.3
    ),
    "a head each": Case(MIXED, heads=2, kv_heads=2, key_dim=64, value_dim=64, window=5),
}


@pytest.mark.parametrize("name", BLOCK_SIZES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_steps_launched_kernel_by_kernel(name, case):
    case = case.with_(block_size=BLOCK_SIZES[name])
    batch = stored_batch(case)
    attend = make_backend(name).over(layout_of(case, batch.blocks), batch.metadata.slots)
    assert_near(attend(batch.query, batch.cache, batch.options), batch.expected)


@pytest.mark.parametrize("name", BLOCK_SIZES)
def test_queries_may_lie_among_keys_and_values(name):
    """bfloat16 too; the fused decoder hands on part of a packed projection."""
    case = CASES["mixed"].with_(block_size=BLOCK_SIZES[name])
    batch = stored_batch(case, torch.bfloat16)
    packed = torch.cat([batch.query, torch.full_like(batch.query, GARBAGE)], dim=1)
    attend = make_backend(name).over(layout_of(case, batch.blocks), batch.metadata.slots)
    assert_near(attend(packed[:, : case.heads], batch.cache, batch.options), batch.expected)


@pytest.mark.parametrize("name", ["flash-attn 2", "FlashAttention 3"])
@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("is_decode", [True, False])
def test_captured_steps_are_padded(name, window, is_decode):
    """With sequences of nothing, rows of nobody, and a table that names what it named before."""
    shapes = (*DECODES, (0, 1), (0, 1)) if is_decode else (*MIXED, (0, 0), (0, 0), (0, 0))
    case = Case(shapes, key_dim=64, value_dim=64, window=window, block_size=BLOCK_SIZES[name])
    batch = stored_batch(case)
    rows, made = len(batch.query), batch.metadata
    nobodys = 0 if is_decode else 4
    query = torch.cat([batch.query, batch.query[:nobodys]])
    slots = torch.cat([made.slots, made.slots.new_full((nobodys,), -1)])
    table = made.block_table.new_zeros(len(shapes), made.block_table.shape[1] + 2)
    table[:, : made.block_table.shape[1]] = made.block_table
    padded = PaddedBatch(
        slots, table, made.lengths, made.query_start_loc, case.block_size, is_decode
    )
    out = make_backend(name).over_padded(padded)(query, batch.cache, batch.options)
    assert_near(out[:rows], batch.expected)


def test_flashinfer_plans_once_for_a_step_and_a_kind_of_layer(monkeypatch):
    """Steps of both kinds take turns, each with wrappers that are planned anew."""
    planned = []
    monkeypatch.setattr(fake_flashinfer.Wrapper, "planned", planned)
    backend = make_backend("FlashInfer")
    for name in ("mixed", "decodes", "mixed", "decodes"):
        batch = stored_batch(CASES[name])
        attend = backend.over(layout_of(CASES[name], batch.blocks), batch.metadata.slots)
        for _ in range(3):
            attend(batch.query, batch.cache, AttentionOptions(0.125, window=5))
            assert_near(attend(batch.query, batch.cache, batch.options), batch.expected)
    assert len(planned) == 4 * 2
    assert len({id(wrapper) for wrapper in planned}) == 2 * 2


@pytest.fixture
def triton_s_turns(monkeypatch):
    """What Triton's attention was called with; it is not interpreted in this process."""
    from loramux_kernels import triton_attention

    calls = []
    monkeypatch.setattr(
        triton_attention, "triton_paged_attention", lambda *args: calls.append(args)
    )
    _tell.cache_clear()
    yield calls
    _tell.cache_clear()


@pytest.mark.parametrize("name", BLOCK_SIZES)
def test_layers_with_sinks_are_triton_s_and_the_log_says_so_once(name, triton_s_turns, caplog):
    case = CASES["mixed"].with_(block_size=BLOCK_SIZES[name], sinks=True)
    batch = stored_batch(case)
    attend = make_backend(name).over(layout_of(case, batch.blocks), batch.metadata.slots)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            attend(batch.query, batch.cache, batch.options)
    assert [args[0] is batch.query for args in triton_s_turns] == [True] * 3
    metadata_given = triton_s_turns[0][2]
    assert metadata_given.lengths[: len(case.shapes)].tolist() == [n for n, _ in case.shapes]
    assert [record.message for record in caplog.records] == [
        f"layers with attention sinks attend with Triton, since {name} takes none"
    ]


def test_captured_steps_of_flashinfer_are_triton_s(triton_s_turns, caplog):
    batch = stored_batch(CASES["decodes"])
    made = batch.metadata
    padded = PaddedBatch(
        made.slots, made.block_table, made.lengths, made.query_start_loc, 16, is_decode=True
    )
    backend = make_backend("FlashInfer")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            backend.over_padded(padded)(batch.query, batch.cache, batch.options)
    assert len(triton_s_turns) == 2
    assert [record.message for record in caplog.records] == [
        "steps held by CUDA graphs attend with Triton, since FlashInfer plans each step on the "
        "host; enforce_eager gives it all steps"
    ]


@dataclass(frozen=True)
class Asked:
    """An engine and a machine; as it stands, every library serves it."""

    key_dim: int = 128
    value_dim: int = 128
    group: int = 1
    dtype: torch.dtype = torch.bfloat16
    block_size: int = 256
    device: str = "cuda:0"
    capability: tuple[int, int] = (9, 0)
    installed: tuple[str, ...] = ("flashinfer-python 0.7.2.post1", "flash-attn 2.8.3.post2")
    importing: Callable[[str], object] = SimpleNamespace

    def choose(self, monkeypatch, name: str):
        versions = dict(each.split() for each in self.installed)

        def version(distribution: str) -> str:
            if distribution not in versions:
                raise metadata.PackageNotFoundError(distribution)
            return versions[distribution]

        importlib = SimpleNamespace(import_module=lambda module: self.importing())
        monkeypatch.setattr(library, "importlib", importlib)
        monkeypatch.setattr(metadata, "version", version)
        limits = gpu.GPU(self.capability, 100 << 10, programmatic_launch=False)
        monkeypatch.setattr(gpu, "_read", lambda device: limits)
        args = EngineArgs(model="m", attention_backend=name, block_size=self.block_size)
        shapes = {0: KVShape(2, self.key_dim, self.value_dim, self.group)}
        device = torch.device(self.device)
        loaded = SimpleNamespace(kv_shapes=shapes, device=device, dtype=self.dtype)
        return choose_attention(args, loaded)


def test_a_library_that_is_installed_serves_by_name(monkeypatch):
    assert type(Asked().choose(monkeypatch, "flashinfer")) is FlashInferAttention
    assert type(Asked().choose(monkeypatch, "flash_attn")) is FlashAttention
    assert type(Asked().choose(monkeypatch, "auto")) is TritonAttention


@pytest.mark.parametrize(
    "asked",
    [
        Asked(capability=(7, 5)),
        Asked(key_dim=8),
        Asked(device="cpu"),
        Asked(key_dim=64, value_dim=64, group=71, dtype=torch.float32),  # Falcon 7B
    ],
)
def test_what_triton_cannot_serve_torch_does_unless_it_is_asked_for_by_name(monkeypatch, asked):
    assert type(asked.choose(monkeypatch, "auto")) is TorchAttention


def broken() -> None:
    raise OSError("undefined symbol:\n _ZN3c10")


REFUSALS = {
    "no GPU": ("flashinfer", Asked(device="cpu"), "cpu is no CUDA GPU"),
    "not installed": ("flashinfer", Asked(installed=()), "flashinfer-python>=0.6,<0.8 is not inst"),
    "too old": ("flashinfer", Asked(installed=("flashinfer-python 0.5.3",)), "0.5.3 is installed"),
    "too new": ("flashinfer", Asked(installed=("flashinfer-python 0.8.0rc1",)), "0.8.0rc1 is"),
    "broken": ("flashinfer", Asked(importing=broken), "(undefined symbol: _ZN3c10)"),
    "head": ("flashinfer", Asked(key_dim=96, value_dim=96), "64, 128 or 256"),
    "values": ("flash_attn", Asked(value_dim=64), "128 and 64 wide"),
    "type": ("flash_attn", Asked(dtype=torch.float32), "torch.float32"),
    "neither": (
        "flash_attn",
        Asked(installed=()),
        "flash_attn_3>=3.0,<4.0 or flash-attn>=2.8,<3.0 is not installed",
    ),
    "too wide": ("flash_attn", Asked(key_dim=264, value_dim=264), "up to 256"),
    "odd": ("flash_attn", Asked(key_dim=100, value_dim=100), "multiples of 8"),
    "block": ("flash_attn", Asked(block_size=16), "multiples of 256 tokens and block_size is 16"),
    "old GPU": ("flash_attn", Asked(capability=(7, 5)), "compute capability is 7.5, less than 8.0"),
    "old GPU, Triton": ("triton", Asked(capability=(7, 5)), "compute capability is 7.5"),
    "narrow": ("triton", Asked(key_dim=8, value_dim=8), "heads of 8 values are narrower than 16"),
    "far too wide": ("triton", Asked(key_dim=4096), "heads of 4096 values, 1 to a KV head, do"),
    "too many": ("triton", Asked(group=65, dtype=torch.float32), "128 values, 65 to a KV head, do"),
}


@pytest.mark.parametrize("case", REFUSALS.values(), ids=REFUSALS.keys())
def test_what_a_library_cannot_serve_is_refused_in_one_sentence(monkeypatch, case):
    name, asked, words = case
    with pytest.raises(InvalidRequestError) as refused:
        asked.choose(monkeypatch, name)
    said = str(refused.value)
    assert words in said
    assert said.startswith(f"attention_backend {name!r}")
    assert said.count(". ") == 0
    assert said.endswith(".")


def test_the_newest_flash_attention_for_the_gpu_is_taken(monkeypatch):
    """The third is for Hopper alone, and takes blocks of 16."""
    both = Asked(installed=("flash-attn 2.8.3", "flash_attn_3 3.0b1+cu130"), block_size=16)
    assert type(both.choose(monkeypatch, "flash_attn")) is FlashAttention
    with pytest.raises(InvalidRequestError, match="flash-attn 2 takes blocks"):
        replace(both, capability=(8, 0)).choose(monkeypatch, "flash_attn")


REAL_CALLS = {
    "flashinfer": [
        (fake_flashinfer.BatchDecodeWithPagedKVCacheWrapper, ("__init__", "plan", "run")),
        (fake_flashinfer.BatchPrefillWithPagedKVCacheWrapper, ("__init__", "plan", "run")),
    ],
    "flash_attn": [(FlashAttn2, ("flash_attn_with_kvcache", "flash_attn_varlen_func"))],
    "flash_attn_interface": [(FlashAttn3, ("flash_attn_with_kvcache",))],
}


@pytest.mark.parametrize("module", REAL_CALLS)
def test_the_fakes_have_the_signatures_of_the_libraries(module):
    reason = f"{module} is not installed, so the signatures of its fake are not compared"
    library = pytest.importorskip(module, reason=reason, exc_type=ImportError)
    for fake, names in REAL_CALLS[module]:
        owner = library if module != "flashinfer" else getattr(library, fake.__name__)
        for name in names:
            assert_called_alike(getattr(fake, name), getattr(owner, name))


def assert_called_alike(fake, real) -> None:
    """The real one takes the fake's positional arguments at their places, and its names."""
    known = inspect.signature(real).parameters
    names = list(known)
    takes_more = any(each.kind is each.VAR_KEYWORD for each in known.values())
    for place, (name, mine) in enumerate(inspect.signature(fake).parameters.items()):
        if name not in known and takes_more:
            assert f"{name} :" in real.__doc__, f"{real} documents no {name}"
            continue
        assert name in known, f"{real} has no {name}"
        assert mine.default == known[name].default, f"the default of {name} is another"
        if mine.kind is mine.POSITIONAL_OR_KEYWORD:
            assert names[place] == name, f"{name} stands elsewhere"
