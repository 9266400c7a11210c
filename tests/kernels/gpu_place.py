"""Placing adapters on a GPU: right to the last bit beside a stream that computes, and how long.

    PYTHONPATH=core:kernels:. python -m tests.kernels.gpu_place

The adapters are of Llama 3.1 8B, on all its linear layers. ``--device cpu --layers 1`` tries the
script itself.
"""

from __future__ import annotations

import argparse
import random
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path

import torch
from torch import Tensor

from loramux.lora.adapter import Adapter
from loramux.lora.device.arena_store import ArenaStore
from loramux.lora.device.pieces import Piece, cut, gather, split_runs
from loramux.lora.device.pool import DevicePool
from loramux.lora.device.resident import ResidentAdapter
from loramux.lora.device.staging import GATHER_BYTES, MAX_RECORDS, RECORD_BYTES, SLOT_BYTES
from loramux.lora.fetch.origin import LocalCheckpoint, SourceRevision
from loramux.lora.site import LoRASite, SiteKind
from loramux.lora.weights import AdapterWeights, LowRankPair

SHAPES = {
    "q": (4096, 4096), "k": (4096, 1024), "v": (4096, 1024), "o": (4096, 4096),
    "gate": (4096, 14336), "up": (4096, 14336), "down": (14336, 4096),
}  # fmt: skip
RANKS = [1, 2, 3, 5, 8, 13, 16, 17, 31, 32, 33, 64, 100, 255, 256]
DTYPE = torch.bfloat16
EMBEDDING = LoRASite("embed", SiteKind.EMBEDDING, 128256, 4096)
"""Its A is transposed, and for large ranks more than what crosses the bus at once."""


class Machine:
    """The store under test on a device, and what has to be told apart between devices."""

    def __init__(self, device: str, layers: int, *extra: LoRASite) -> None:
        self.device = torch.device(device)
        self.sites = {
            f"{layer}.{name}": LoRASite(f"{layer}.{name}", SiteKind.LINEAR, *shape)
            for layer in range(layers)
            for name, shape in SHAPES.items()
        }
        self.sites |= {site.name: site for site in extra}
        largest = 256 * sum(sum(shape_of(site)) for site in self.sites.values())
        arena = torch.empty(3 * largest // 2, dtype=DTYPE, device=self.device)
        start = time.perf_counter()
        self.store = ArenaStore(list(self.sites.values()), arena)
        made = time.perf_counter()
        self.store.staging.wait_until_ready()
        ready = time.perf_counter()
        print(
            f"{self.device}: store made in {1e3 * (made - start):.1f} ms, pinned and compiled "
            f"{1e3 * (ready - made):.0f} ms later"
        )

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def weights(self, digest: str, rank: int, dtype: torch.dtype, seed: int) -> AdapterWeights:
        """Random pairs in one buffer, as a file's tensors are."""
        generator = torch.Generator().manual_seed(seed)
        sizes = [rank * width for s in self.sites.values() for width in shape_of(s)]
        noise = torch.randn(1 << 16, generator=generator).to(dtype)
        buffer = noise.repeat(-(-sum(sizes) // len(noise)))[: sum(sizes)]
        parts = iter(buffer.split(sizes))
        pairs = {
            name: LowRankPair(next(parts).view(rank, -1), next(parts).view(-1, rank), 2.0)
            for name in self.sites
        }
        return AdapterWeights(digest, pairs)


def shape_of(site: LoRASite) -> tuple[int, int]:
    return site.in_features, site.out_features


def adapter_of(digest: str) -> Adapter:
    return Adapter(digest, LocalCheckpoint(Path(digest), SourceRevision(())), 0, 0, 0)


def check(resident: ResidentAdapter, weights: AdapterWeights) -> None:
    """The bits are those of a cast in torch, and the table says where they are."""
    for name, pair in weights.pairs.items():
        placed = resident.pairs[name]
        device = placed.a.device
        assert torch.equal(placed.a, pair.a.to(device).to(DTYPE).t()), f"A of {name} is wrong"
        assert torch.equal(placed.b, pair.b.to(device).to(DTYPE).t()), f"B of {name} is wrong"


def milliseconds(act: Callable[[], object], machine: Machine, repeats: int = 5) -> float:
    """The median of some runs, behind one that warms up."""
    times = []
    for _ in range(repeats + 1):
        machine.synchronize()
        start = time.perf_counter()
        act()
        machine.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[1:])


def stages(machine: Machine, rank: int, dtype: torch.dtype) -> None:
    """What each stage costs alone, and all of them as they overlap in ``fill``."""
    store, staging = machine.store, machine.store.staging
    weights = machine.weights("timed", rank, dtype, seed=1)
    resident = store.prepare(adapter_of("timed"), weights)
    assert store.reserve(resident)
    store.fill(resident, weights)
    placements = {name: resident.placements[column] for column, name in enumerate(machine.sites)}

    def plan() -> list[Piece]:
        return list(cut(store._moves(weights, placements), SLOT_BYTES - RECORD_BYTES, MAX_RECORDS))

    pieces = plan()
    slot = staging._slots.get()
    records = b"".join(fields.tobytes() for fields in pieces[0].records.values())
    slot.host[: len(records)] = torch.frombuffer(bytearray(records), dtype=torch.uint8)
    slot.device.copy_(slot.host)
    table_row = store.table.encode(resident.placements)
    cells = {
        "plan": milliseconds(plan, machine),
        "gather": milliseconds(lambda: gather_all(machine, pieces, slot.host), machine),
        "send": milliseconds(
            lambda: [slot.device[: p.num_bytes].copy_(slot.host[: p.num_bytes], non_blocking=True)
                     for p in pieces], machine,
        ),
        "send and place one piece": milliseconds(lambda: staging._place(pieces[0], slot), machine),
        "all (fill)": 0.0,
        "reserve": 0.0,
        "publish": milliseconds(
            lambda: store.table.put(resident.slot, resident.placements, table_row), machine
        ),
    }  # fmt: skip
    staging._slots.put(slot)
    cells["all (fill)"] = milliseconds(lambda: store.fill(resident, weights), machine)
    cells["reserve"] = milliseconds(lambda: reserve_again(store, resident, weights), machine)
    store.publish(resident)
    check(resident, weights)
    store.free(resident)
    total = weights.num_bytes / 1e6
    print(f"rank {rank} of {dtype}, {total:.0f} MB in {len(pieces)} pieces, ms:")
    print("   " + ", ".join(f"{name} {value:.2f}" for name, value in cells.items()))


def gather_all(machine: Machine, pieces: list[Piece], host: Tensor) -> None:
    address = host.data_ptr() + RECORD_BYTES
    threads = machine.store.staging._gatherers
    for piece in pieces:
        wait([threads.submit(gather, g, address) for g in split_runs(piece.runs, GATHER_BYTES)])


def reserve_again(store: ArenaStore, resident: ResidentAdapter, weights: AdapterWeights) -> None:
    """Sizes and pages on the engine's thread."""
    other = store.prepare(resident.adapter, weights)
    assert store.reserve(other)
    store.free(other)


class Steps:
    """Stands for an engine: products on the compute stream, the pool's calls between them."""

    def __init__(self, machine: Machine, pool: DevicePool) -> None:
        self.pool = pool
        self.machine = machine
        size = 8192 if machine.device.type == "cuda" else 64
        self.left = torch.randn(size, size, device=machine.device).to(DTYPE)
        self.times: list[float] = []

    def step(self, ask: Adapter | None = None) -> None:
        start = time.perf_counter()
        self.pool.collect()
        if ask is not None:
            self.pool.prefetch(ask)
        self.times.append(1e3 * (time.perf_counter() - start))
        torch.mm(self.left, self.left)

    def report(self, name: str) -> None:
        ordered = sorted(self.times)
        print(
            f"{name}: the pool's share of a step p50 {statistics.median(ordered):.3f} ms, "
            f"p99 {ordered[int(0.99 * (len(ordered) - 1))]:.3f}, max {ordered[-1]:.3f}"
        )
        self.times = []


def storm(machine: Machine, count: int) -> None:
    """Adapters of all ranks come and go while steps run that still read what is evicted."""
    chance = random.Random(5)
    known = {
        f"{n}": machine.weights(
            f"{n}", RANKS[n % len(RANKS)], chance.choice([torch.float32, DTYPE, torch.float16]), n
        )
        for n in range(count)
    }
    fetched: dict[str, Future[AdapterWeights]] = {}
    for digest, weights in known.items():
        fetched[digest] = Future()
        fetched[digest].set_result(weights)
    changed = threading.Event()
    pool = DevicePool(lambda a: fetched[a.digest], machine.store, changed.set)
    steps = Steps(machine, pool)
    copies: list[tuple[Tensor, Tensor]] = []

    def read_while_it_goes(resident: ResidentAdapter) -> None:
        """A step in flight that reads the adapter after it was evicted by the books."""
        for _ in range(4):
            torch.mm(steps.left, steps.left)
        name, pair = next(iter(known[resident.digest].pairs.items()))
        copies.append((resident.pairs[name].a.clone(), pair.a))

    pool.on_evict = read_while_it_goes
    with torch.inference_mode():
        for digest in [*known, *chance.choices(list(known), k=2 * count)]:
            adapter = adapter_of(digest)
            while (resident := pool.get(adapter)) is None:
                steps.step(adapter)
                assert not (failures := pool.take_failures()), failures
            check(resident, known[digest])
        for copied, original in copies:
            expected = original.to(copied.device).to(DTYPE).t()
            assert torch.equal(copied, expected), "what a step read was overwritten"
    machine.synchronize()
    steps.report(f"{3 * count} adapters asked for, {len(copies)} evicted under a reader, all right")
    pool.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--adapters", type=int, default=15)
    options = parser.parse_args()
    machine = Machine(options.device, options.layers)
    for rank, dtype in [(16, DTYPE), (16, torch.float32), (64, DTYPE), (17, DTYPE)]:
        stages(machine, rank, dtype)
    machine.store.shutdown()
    storm(Machine(options.device, max(options.layers // 4, 1), EMBEDDING), options.adapters)


if __name__ == "__main__":
    main()
