"""Adapters read in the engine's process and in one of their own, beside a thread that is busy."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import pairwise

import torch

from loramux.lora.adapter import Adapter
from loramux.lora.checkpoint import pieces
from loramux.lora.device.arena_store import ArenaStore
from loramux.lora.device.resident import ResidentAdapter
from loramux.lora.fetch.materializer import Materializer
from loramux.lora.fetch.origin import LocalCheckpoint
from loramux.lora.read_process.reader import AdapterReader
from loramux.lora.request import LoRARequest
from loramux.lora.site import LoRASite
from loramux.lora.size_limit import DEFAULT_MAX_BYTES
from loramux.lora.weights import AdapterWeights
from loramux.server.interpreter import SWITCH_SECONDS
from tests.lora.cold_stages import Stages, measure, show

LOADS_PER_SECOND = 20
BUSY_SECONDS = 1.5
WAYS = {"in the engine's process": 0, "in a process of their own": 1}

NewRequest = Callable[[], LoRARequest]
Work = Callable[[], object]


@contextmanager
def reading(sites: dict[str, LoRASite], processes: int, cached: int = 4) -> Iterator[Materializer]:
    """A materializer whose adapters are read in so many processes."""
    reader = AdapterReader(processes)
    reader.serve(sites)
    assert reader.wait_until_ready(60)

    def read(source: LocalCheckpoint) -> AdapterWeights:
        return reader.read(
            source.directory, max_rank=64, base_names=None, max_bytes=DEFAULT_MAX_BYTES
        )

    materializer = Materializer(read, cached, on_shutdown=reader.shutdown)
    try:
        yield materializer
    finally:
        materializer.shutdown()


@contextmanager
def switching_as_a_server() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@contextmanager
def busy_thread(work: Work) -> Iterator[list[float]]:
    """A thread that works without pause, and when it came round each time."""
    times: list[float] = []
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            work()
            times.append(time.perf_counter())

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        yield times
    finally:
        stop.set()
        thread.join()


def show_turns(when: str, times: list[float]) -> None:
    gaps = [after - before for before, after in pairwise(times)]
    show(f"turns of the busy thread, {when}", gaps)
    rate = len(gaps) / (times[-1] - times[0])
    print(f"  {rate:.0f} turns a second, the longest {1e3 * max(gaps):.2f} ms")


def load_seconds(materializer: Materializer, request: LoRARequest) -> float:
    started = time.perf_counter()
    materializer.load(request).result()
    return time.perf_counter() - started


def load_steadily(materializer: Materializer, new_request: NewRequest) -> list[float]:
    """Seconds of each load, begun at a steady rate whether or not the last has ended."""
    requests = [new_request() for _ in range(int(LOADS_PER_SECOND * BUSY_SECONDS))]
    seconds: list[float] = []
    futures = []
    first = time.perf_counter()
    for number, request in enumerate(requests):
        due = first + number / LOADS_PER_SECOND
        time.sleep(max(0.0, due - time.perf_counter()))
        future = materializer.load(request)
        future.add_done_callback(_note(seconds, due))
        futures.append(future)
    for future in futures:
        future.result()
    return seconds


def _note(seconds: list[float], due: float) -> Callable[[Future[Adapter]], None]:
    return lambda _: seconds.append(time.perf_counter() - due)


def measure_way(name: str, sites: dict[str, LoRASite], new_request: NewRequest, work: Work) -> None:
    """One way of reading: alone, beside a busy thread, and what the busy thread has of it."""
    print(f" read {name}")
    with reading(sites, WAYS[name]) as materializer, switching_as_a_server():
        load_seconds(materializer, new_request())
        show("cold load, alone", [load_seconds(materializer, new_request()) for _ in range(10)])
        with busy_thread(work) as times:
            time.sleep(0.5)
        show_turns("alone", times)
        with busy_thread(work):
            seconds = [load_seconds(materializer, new_request()) for _ in range(5)]
        show("cold load, beside the busy thread", seconds)
        with busy_thread(work) as times:
            seconds = load_steadily(materializer, new_request)
        show(f"cold load, {LOADS_PER_SECOND} a second beside it", seconds)
        show_turns(f"{LOADS_PER_SECOND} loads a second", times)


def measure_pieces(stages: Stages, number: int) -> None:
    """What the size of the digest's leaves costs: few leaves, few threads; many, many locks."""
    before = pieces.PIECE_BYTES
    try:
        for size in (2**21, 2**22, 2**23, 2**24):
            pieces.PIECE_BYTES = size
            print(f"  leaves of {size >> 20} MiB:", end="")
            stages.pieces(number)
    finally:
        pieces.PIECE_BYTES = before


def check_placed(resident: ResidentAdapter, weights: AdapterWeights) -> None:
    """Every bit is where the table says, whichever way it came."""
    for name, pair in weights.pairs.items():
        placed = resident.pairs[name]
        assert torch.equal(placed.a.t().cpu(), pair.a), name
        assert torch.equal(placed.b.t().cpu(), pair.b), name


def measure_placing(sites: dict[str, LoRASite], new_request: NewRequest, repeats: int) -> None:
    """From checked tensors to the arena, on a GPU where there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    arena = torch.empty(128 * 2**20, dtype=torch.bfloat16, device=device)
    store = ArenaStore(list(sites.values()), arena)
    store.staging.wait_until_ready()
    for name, processes in WAYS.items():
        print(f" placed on the {device.type}, read {name}")
        with reading(sites, processes) as materializer:
            adapter = materializer.load(new_request()).result()
            weights = materializer.weights(adapter)
            measure("prepare", lambda a=adapter, w=weights: store.prepare(a, w), repeats)
            resident = store.prepare(adapter, weights)
            assert store.reserve(resident)
            measure("fill", lambda r=resident, w=weights: store.fill(r, w), repeats)
            check_placed(resident, weights)
            store.free(resident)
    store.shutdown()
