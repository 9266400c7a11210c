"""What a fused decoder gets for its adapters: PEFT's numbers, and no bit of anybody else's rows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from loramux.lora.adapter import Adapter
from loramux.lora.device.arena_store import ArenaStore, packed_first
from loramux.lora.device.kernel_updates import KernelUpdates
from loramux.lora.device.packed import PackedLoRA, TorchUpdates
from loramux.lora.device.resident import ResidentAdapter
from loramux.lora.device.store import AdapterStore, TensorStore
from loramux.lora.site import LoRASite, PackedSites, SiteKind
from tests.kernels.interpreted import interpreting_process
from tests.kernels.test_triton_lora import DECODE_TILES, PREFILL_TILES
from tests.lora import arena_cases
from tests.lora.peft_adapters import make_adapter, peft_deltas
from tests.lora.reading import MODELS, SITES, read
from tests.lora.residents import CPU
from tests.lora.residents import make_adapter as adapter_named

LLAMA = SITES["llama"]
LAYER = "model.layers.1"
GROUPS = {
    "qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "o": ["self_attn.o_proj"],
    "gate_up": ["mlp.gate_proj", "mlp.up_proj"],
    "down": ["mlp.down_proj"],
}
TARGETS = {
    "attention": ["q_proj", "v_proj", "o_proj"],
    "layers": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "everything": ["q_proj", "up_proj", "down_proj", "embed_tokens", "lm_head"],
}
ROWS = [("layers", 1, 3), (None, 3, 4), ("attention", 4, 5), ("everything", 5, 8)]
APART = [("layers", 0, 1), ("everything", 1, 2), ("layers", 2, 4), ("everything", 7, 8)]
NUM_ROWS = 8


def packed_sites() -> list[PackedSites]:
    return [
        PackedSites(f"{layer}.{name}", tuple(LLAMA[f"{layer}.{part}"] for part in parts))
        for layer in ("model.layers.0", LAYER)
        for name, parts in GROUPS.items()
    ]


class Adapted:
    """Three adapters of PEFT on the tiny Llama, resident, with what PEFT adds to each weight."""

    def __init__(self, folder, store: AdapterStore) -> None:
        self.adapters: dict[str | None, Adapter | None] = {None: None}
        self.resident: dict[Adapter, ResidentAdapter] = {}
        self.deltas: dict[str, dict[str, Tensor]] = {}
        for seed, (name, targets) in enumerate(TARGETS.items()):
            path = make_adapter(
                MODELS["llama"], folder / name, target_modules=targets, r=3 + seed, seed=seed
            )
            adapter = self.adapters[name] = adapter_named(name)
            weights = read(path)
            resident = self.resident[adapter] = store.prepare(adapter, weights)
            assert store.reserve(resident)
            store.fill(resident, weights)
            store.publish(resident)
            self.deltas[name] = peft_deltas(MODELS["llama"], path)

    def packed(self) -> PackedLoRA:
        updates = TorchUpdates(packed_sites(), CPU)
        return PackedLoRA(packed_sites(), LLAMA, self.resident.__getitem__, updates, CPU)

    def rows(self, rows) -> list[tuple[Adapter | None, int, int]]:
        return [(self.adapters[name], start, stop) for name, start, stop in rows]

    def expected(self, y: Tensor, x: Tensor, rows, site: str) -> Tensor:
        result = y.clone()
        for name, start, stop in rows:
            delta = self.deltas.get(name, {}).get(site)
            if delta is not None:
                result[start:stop] += x[start:stop] @ delta.T
        return result


@pytest.fixture(scope="module", params=["tensors", "arena"])
def adapted(request, tmp_path_factory) -> Iterator[Adapted]:
    store: AdapterStore = TensorStore(torch.float32, 3)
    if request.param == "arena":
        store = ArenaStore(packed_first(LLAMA, packed_sites()), torch.empty(1 << 16))
    with torch.inference_mode():
        yield Adapted(tmp_path_factory.mktemp("packed"), store)
    store.shutdown()


@pytest.fixture(scope="module")
def interpreter():
    with interpreting_process() as process:
        yield process


def untouched(rows) -> list[int]:
    mine = {row for name, start, stop in rows if name for row in range(start, stop)}
    return [row for row in range(NUM_ROWS) if row not in mine]


@pytest.mark.parametrize("rows", [ROWS, APART])
def test_packed_projections_are_what_peft_computes(adapted, rows):
    packed = adapted.packed()
    packed.fill(adapted.rows(rows))
    for index, projection in enumerate(packed_sites()):
        x = torch.randn(NUM_ROWS, projection.sites[0].in_features)
        y = torch.randn(NUM_ROWS, sum(site.out_features for site in projection.sites))
        before = y.clone()
        packed.add_(index, y, x)
        start = 0
        for site in projection.sites:
            columns = slice(start, start + site.out_features)
            expected = adapted.expected(before[:, columns], x, rows, site.name)
            torch.testing.assert_close(y[:, columns], expected, rtol=1e-5, atol=1e-4)
            start = columns.stop
        assert torch.equal(y[untouched(rows)], before[untouched(rows)])


def test_the_embedding_and_the_output_are_what_peft_computes(adapted):
    packed = adapted.packed()
    samples = [("layers", 0, 1), ("everything", 1, 2), (None, 2, 3)]
    packed.fill(adapted.rows(ROWS), adapted.rows(samples))
    assert packed.needs_eager
    ids = torch.randint(0, 64, (NUM_ROWS,))
    y = torch.randn(NUM_ROWS, 16)
    expected = adapted.expected(y, torch.eye(64)[ids], ROWS, "model.embed_tokens")
    packed.add_embedding_(y, ids)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    x, logits = torch.randn(3, 16), torch.randn(3, 64)
    expected = adapted.expected(logits, x, samples, "lm_head")
    packed.add_output_(logits, x)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-4)


def test_only_embedding_and_output_keep_a_step_from_being_replayed(adapted):
    packed = adapted.packed()
    packed.fill(adapted.rows(ROWS))
    assert packed.needs_eager
    packed.fill(adapted.rows([("layers", 0, 1), ("attention", 1, 2)]))
    assert not packed.needs_eager
    packed.fill(adapted.rows([(None, 0, 8)]))
    assert not packed.needs_eager
    y = torch.randn(NUM_ROWS, 64)
    before = y.clone()
    packed.add_(0, y[:, :32], torch.randn(NUM_ROWS, 16))
    packed.add_embedding_(y[:, :16], torch.zeros(NUM_ROWS, dtype=torch.long))
    packed.add_output_(y, torch.randn(NUM_ROWS, 16))
    assert torch.equal(y, before)


@pytest.mark.parametrize("is_decode", [True, False])
def test_kernels_over_the_arena_compute_the_same(interpreter, is_decode):
    interpreter.submit(check_kernels, is_decode).result()


def check_kernels(is_decode: bool) -> None:
    """Adapters placed in an arena: kernels by way of its table, torch by way of its views."""
    torch.set_num_threads(1)
    torch.manual_seed(3)
    sites = arena_cases.SITES
    projections = [
        PackedSites("qk", (sites["q"], sites["k"])),
        PackedSites("down", (sites["down"],)),
    ]
    store = arena_cases.make_store(1 << 16)
    resident: dict[Adapter, ResidentAdapter] = {}
    for name, ranks in {"a": {"q": 3, "k": 20}, "b": {"down": 7, "q": 1}, "c": {"k": 5}}.items():
        weights = arena_cases.make_weights(name, ranks, seed=len(resident))
        adapter = adapter_named(name)
        resident[adapter] = store.prepare(adapter, weights)
        assert store.reserve(resident[adapter])
        store.fill(resident[adapter], weights)
        store.publish(resident[adapter])
    a, b, c = resident
    rows = [(a, 0, 1), (None, 1, 2), (b, 2, 3), (a, 3, 4), (c, 4, 5)]
    if not is_decode:
        rows = [(b, 0, 3), (None, 3, 4), (a, 4, 9), (c, 9, 10)]
    kernels = KernelUpdates(projections, store.table, 12, 8, 20, DECODE_TILES, PREFILL_TILES)
    outputs = []
    for updates in (kernels, TorchUpdates(projections, CPU)):
        packed = PackedLoRA(projections, sites, resident.__getitem__, updates, CPU)
        packed.fill(rows, is_decode=is_decode)
        generator = torch.Generator().manual_seed(5)
        for index, projection in enumerate(projections):
            x = torch.randn(10, projection.sites[0].in_features, generator=generator)
            width = sum(site.out_features for site in projection.sites)
            y = torch.randn(10, width, generator=generator)
            outputs.append(packed.activate(1, y.clone(), x, "silu")[: rows[-1][2]] if index else x)
            packed.add_(index, y, x)
            outputs.append(y)
    store.shutdown()
    for by_kernel, by_torch in zip(outputs[:4], outputs[4:], strict=True):
        torch.testing.assert_close(by_kernel, by_torch, rtol=1e-5, atol=1e-5)


def test_a_layer_that_no_decoder_computes_is_refused():
    sites = {**LLAMA, "extra": LoRASite("extra", SiteKind.LINEAR, 4, 4)}
    with pytest.raises(ValueError, match="layer extra is in no packed projection"):
        PackedLoRA(packed_sites(), sites, {}.__getitem__, TorchUpdates([], CPU), CPU)
