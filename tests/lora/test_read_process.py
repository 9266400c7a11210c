"""A reading process under load, killed, and outlived: nothing is lost and nothing stays."""

from __future__ import annotations

import gc
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import torch

from loramux.env import EnvironmentVariableError
from loramux.errors import AdapterError, AdapterRefusedError
from loramux.lora.checkpoint.reader import read_adapter
from loramux.lora.read_process import child_process
from loramux.lora.read_process.messages import NotReadError
from loramux.lora.read_process.process import MAX_UNREADY, ReadProcess
from loramux.lora.read_process.reader import AdapterReader, num_read_processes
from loramux.lora.size_limit import DEFAULT_MAX_BYTES
from loramux.lora.weights import AdapterWeights
from tests.lora.peft_adapters import make_adapter
from tests.lora.reading import MODELS, SITES
from tests.lora.reading_process import START_SECONDS, read_process, read_there

OPTIONS = {"max_rank": 64, "base_names": None, "max_bytes": DEFAULT_MAX_BYTES}


@pytest.fixture(scope="module")
def process():
    with read_process(SITES["llama"]) as ready:
        yield ready


@pytest.fixture
def reader():
    made = AdapterReader(1)
    made.serve(SITES["llama"])
    assert made.wait_until_ready(START_SECONDS)
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def adapters(tmp_path_factory) -> list[Path]:
    root = tmp_path_factory.mktemp("several")
    return [
        make_adapter(MODELS["llama"], root / str(seed), target_modules="all-linear", seed=seed)
        for seed in range(3)
    ]


def read_here(path: Path) -> AdapterWeights:
    return read_adapter(path, SITES["llama"], **OPTIONS)


def assert_same(found: AdapterWeights, wanted: AdapterWeights) -> None:
    assert found.digest == wanted.digest
    assert list(found.pairs) == list(wanted.pairs)
    for name, pair in wanted.pairs.items():
        assert torch.equal(found.pairs[name].a, pair.a)
        assert torch.equal(found.pairs[name].b, pair.b)


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def is_running(process_id: int) -> bool:
    """Not even as a zombie."""
    return Path(f"/proc/{process_id}").exists()


def num_mapped() -> int:
    return Path("/proc/self/maps").read_text().count("memfd:loramux-adapter")


def num_open() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_fifty_at_a_time(process, adapters):
    wanted = [read_here(path) for path in adapters]
    with ThreadPoolExecutor(50) as threads:
        found = list(threads.map(lambda i: read_there(process, adapters[i % 3]), range(50)))
    for i, weights in enumerate(found):
        assert_same(weights, wanted[i % 3])


def test_files_that_lie_elsewhere_are_refused_there_too(process, reader, adapters, tmp_path):
    linked = tmp_path / "linked"
    linked.symlink_to(adapters[0])
    allowed = (str(adapters[0]),)
    assert_same(read_there(process, linked, allowed_directories=allowed), read_here(adapters[0]))
    for read in (partial(read_there, process), partial(reader.read, **OPTIONS)):
        with pytest.raises(AdapterRefusedError, match="lies outside"):
            read(adapters[1], allowed_directories=allowed)


def test_memory_and_descriptors_are_given_back(process, adapters):
    before, mapped = num_open(), num_mapped()
    kept = [read_there(process, path) for path in adapters * 5]
    assert num_open() == before  # or a large host cache would run out of them
    assert num_mapped() >= len(kept)
    tensor = kept[0].pairs["model.layers.0.self_attn.q_proj"].a
    wanted = tensor.clone()
    del kept
    gc.collect()
    assert eventually(lambda: num_mapped() <= mapped + 1)
    assert torch.equal(tensor, wanted)
    del tensor
    assert eventually(lambda: num_mapped() <= mapped)


def test_refusals_leave_nothing_behind(process, adapters, tmp_path):
    before, mapped = num_open(), num_mapped()
    for _ in range(3):
        with pytest.raises(AdapterError):
            read_there(process, tmp_path / "absent")
        # Its memory is there by then.
        with pytest.raises(AdapterRefusedError, match="exceeds max_lora_rank"):
            read_there(process, adapters[0], max_rank=1)
    assert num_open() == before
    assert eventually(lambda: num_mapped() <= mapped)


def test_memory_that_is_not_to_be_had_is_no_fault_of_an_adapter(process, adapters):
    soft, hard = resource.prlimit(process.process_id, resource.RLIMIT_FSIZE)
    resource.prlimit(process.process_id, resource.RLIMIT_FSIZE, (0, hard))  # shared memory too
    try:
        with pytest.raises(NotReadError, match="no memory to share"):
            read_there(process, adapters[0])
    finally:
        resource.prlimit(process.process_id, resource.RLIMIT_FSIZE, (soft, hard))
    assert_same(read_there(process, adapters[0]), read_here(adapters[0]))


def test_adapters_that_change_while_they_are_read(process, adapters, tmp_path):
    """One version or the other, or a refusal; never a mixture."""
    name = "adapter_model.safetensors"
    path = Path(shutil.copytree(adapters[0], tmp_path / "changing"))
    digests = {read_here(adapter).digest for adapter in adapters}
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            for adapter in adapters:
                shutil.copy(adapter / name, tmp_path / "next")
                os.replace(tmp_path / "next", path / name)

    changer = threading.Thread(target=change)
    changer.start()
    try:
        assert {read_there(process, path).digest for _ in range(60)} <= digests
    finally:
        stop.set()
        changer.join()


def test_files_that_are_cut_while_they_are_read(process, adapters, tmp_path):
    path = Path(shutil.copytree(adapters[0], tmp_path / "cut"))
    file = path / "adapter_model.safetensors"
    content, digest, stop = file.read_bytes(), read_here(path).digest, threading.Event()

    def cut() -> None:
        while not stop.is_set():
            os.truncate(file, len(content) // 2)
            file.write_bytes(content)

    cutter = threading.Thread(target=cut)
    cutter.start()
    try:
        for _ in range(60):
            with suppress(AdapterRefusedError):
                assert read_there(process, path).digest == digest
    finally:
        stop.set()
        cutter.join()
    assert read_there(process, path).digest == digest


def test_a_process_that_is_killed_is_replaced(reader, adapters, caplog):
    (process,) = reader._processes
    killed, wanted = process.process_id, [read_here(path) for path in adapters]
    survivor = reader.read(adapters[0], **OPTIONS)
    with ThreadPoolExecutor(20) as threads:
        reads = [threads.submit(reader.read, adapters[i % 3], **OPTIONS) for i in range(60)]
        os.kill(killed, signal.SIGKILL)
        for i, read in enumerate(reads):
            assert_same(read.result(), wanted[i % 3])
    assert_same(survivor, wanted[0])
    assert eventually(lambda: process.process_id != killed)
    assert reader.wait_until_ready(START_SECONDS)
    assert_same(read_there(process, adapters[1]), wanted[1])
    assert not is_running(killed)
    assert "ended with status -9; another one is started" in caplog.text


def test_a_process_that_is_killed_before_it_knows_the_sites(adapters):
    process = ReadProcess()
    first = process.process_id
    os.kill(first, signal.SIGKILL)
    assert eventually(lambda: process.process_id != first)
    process.serve(list(SITES["llama"].values()))
    assert process.wait_until_ready(START_SECONDS)
    assert_same(read_there(process, adapters[0]), read_here(adapters[0]))
    process.shutdown()


def test_a_process_that_is_killed_before_it_is_ready(adapters, caplog):
    """Another is started, but not for ever."""
    reader = AdapterReader(1)
    reader.serve(SITES["llama"])
    (process,) = reader._processes
    killed = set()
    while len(killed) < MAX_UNREADY:
        assert eventually(lambda: process.process_id not in killed)
        killed.add(process.process_id)
        os.kill(process.process_id, signal.SIGKILL)
    assert eventually(lambda: "before it was ready" in caplog.text)
    assert caplog.text.count("another one is started") == MAX_UNREADY - 1
    assert_same(reader.read(adapters[0], **OPTIONS), read_here(adapters[0]))
    reader.shutdown()
    assert not any(map(is_running, killed))


def test_a_process_that_is_stopped_in_the_middle_of_a_read(reader, adapters):
    """The request is with a process that ends without an answer."""
    (process,) = reader._processes
    os.kill(process.process_id, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as threads:
        read = threads.submit(reader.read, adapters[0], **OPTIONS)
        time.sleep(0.05)
        assert not read.done()
        os.kill(process.process_id, signal.SIGKILL)
        assert_same(read.result(), read_here(adapters[0]))


def test_shutdown_ends_the_process(reader, adapters):
    (process,) = reader._processes
    reader.shutdown()
    assert not is_running(process.process_id)
    with pytest.raises(NotReadError):
        read_there(process, adapters[0])
    assert_same(reader.read(adapters[0], **OPTIONS), read_here(adapters[0]))


def test_a_process_that_nobody_has_any_more_is_ended():
    process = ReadProcess()
    process_id = process.process_id
    del process
    gc.collect()
    assert eventually(lambda: not is_running(process_id))


def test_a_process_that_cannot_start(adapters, monkeypatch, caplog):
    monkeypatch.setattr(child_process, "CHILD", "loramux.there_is_no_such_module")
    reader = AdapterReader(1)
    reader.serve(SITES["llama"])
    assert eventually(lambda: "before it was ready" in caplog.text)
    assert_same(reader.read(adapters[0], **OPTIONS), read_here(adapters[0]))
    reader.shutdown()
    assert caplog.text.count("before it was ready") == 1


def test_a_program_that_cannot_be_run(adapters, monkeypatch, caplog):
    monkeypatch.setattr(sys, "executable", "/there/is/no/python")
    reader = AdapterReader(2)
    reader.serve(SITES["llama"])
    assert "no process for reading adapters can be started" in caplog.text
    assert_same(reader.read(adapters[0], **OPTIONS), read_here(adapters[0]))
    reader.shutdown()


def test_without_processes_adapters_are_read_here(adapters, caplog):
    caplog.set_level(logging.INFO)
    reader = AdapterReader(0)
    reader.serve(SITES["llama"])
    assert_same(reader.read(adapters[0], **OPTIONS), read_here(adapters[0]))
    reader.shutdown()
    assert not caplog.records


ENGINE = """
import os, sys, time
from loramux.lora.read_process.process import ReadProcess
process = ReadProcess()
process.serve([])
assert process.wait_until_ready({seconds})
holder = os.fork() if {forks} else 0
if {forks} and holder == 0:
    time.sleep(10 * {seconds})  # with a copy of the engine's end of the socket
    os._exit(0)
print(process.process_id, holder, flush=True)
time.sleep(10 * {seconds})
"""


@pytest.mark.parametrize("forks", [False, True])
def test_the_process_ends_with_its_engine(forks):
    code = ENGINE.format(seconds=START_SECONDS, forks=forks)
    path = os.pathsep.join(sys.path)
    engine = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        text=True,
    )
    try:
        child, holder = map(int, engine.stdout.readline().split())
        assert is_running(child)
    finally:
        engine.kill()
        engine.wait()
    try:
        assert eventually(lambda: not is_running(child))
    finally:
        if holder:
            os.kill(holder, signal.SIGKILL)
        engine.stdout.close()


def test_number_of_processes(monkeypatch):
    monkeypatch.delenv("LORAMUX_READ_PROCESSES", raising=False)
    assert num_read_processes(torch.device("cpu")) == 0
    assert num_read_processes(torch.device("cuda:0")) == 1
    monkeypatch.setenv("LORAMUX_READ_PROCESSES", "3")
    assert num_read_processes(torch.device("cpu")) == 3
    monkeypatch.setenv("LORAMUX_READ_PROCESSES", "some")
    with pytest.raises(EnvironmentVariableError, match="LORAMUX_READ_PROCESSES"):
        num_read_processes(torch.device("cpu"))
