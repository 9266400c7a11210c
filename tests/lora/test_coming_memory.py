"""Memory that a reading process fills: there before the adapter is, and nothing of it stays."""

from __future__ import annotations

import mmap
import os

import numpy as np
import pytest

from loramux.lora.read_process import process, shared_memory
from loramux.lora.read_process.child_process import ChildProcess
from loramux.lora.read_process.coming_memory import ROOM, ComingMemory
from loramux.lora.read_process.messages import (
    NotReadError,
    ReadMemory,
    ReadRequest,
    ReadResult,
)
from loramux.lora.read_process.shared_memory import SharedFile
from loramux.lora.size_limit import DEFAULT_MAX_BYTES
from tests.lora.peft_adapters import make_adapter
from tests.lora.reading import MODELS, SITES
from tests.lora.reading_process import read_process

PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_pages(address: int) -> int:
    """Pages of a mapping that this process has found so far."""
    with open("/proc/self/smaps") as lines:
        is_here = False
        for line in lines:
            if "-" in line.split(" ")[0]:
                is_here = line.startswith(f"{address:x}-")
            elif is_here and line.startswith("Rss:"):
                return int(line.split()[1]) * 1024 // PAGE
    raise AssertionError("nothing is mapped there")


def finds_pages_ahead() -> bool:
    """Whether the system does so where it is asked to: Linux from 5.14 on."""
    try:
        mmap.mmap(-1, PAGE).madvise(shared_memory.MADV_POPULATE_READ)
    except OSError:
        return False
    return True


@pytest.fixture
def filled():
    """A file that another has filled."""
    file = SharedFile(64 * PAGE)
    file.content[:] = np.arange(64 * PAGE) % 251
    yield file
    file.close()


def test_its_pages_are_found_when_it_comes_and_what_is_appended_is_seen(filled):
    with ComingMemory() as memory:
        memory.map(os.dup(filled.descriptor), filled.num_bytes)
        mapped = memory.content(filled.num_bytes)
        assert resident_pages(mapped.ctypes.data) == (64 if finds_pages_ahead() else 0)
        assert np.array_equal(mapped, filled.content)
        filled.append(b"a table", 1)
        assert memory.content(filled.num_bytes)[-7:].tobytes() == b"a table"
        filled.append(b"x" * 2 * ROOM, 1)
        assert memory.content(filled.num_bytes)[-ROOM:].tobytes() == b"x" * ROOM


def test_its_descriptor_is_closed_and_what_was_mapped_stays(filled):
    descriptor = os.dup(filled.descriptor)
    with ComingMemory() as memory:
        memory.map(descriptor, filled.num_bytes)
        mapped = memory.content(filled.num_bytes)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    assert np.array_equal(mapped, filled.content)


def test_memory_that_cannot_be_had_is_told(filled):
    with ComingMemory() as memory, pytest.raises(NotReadError, match="too many open files"):
        memory.map(None, 5)
    with ComingMemory() as memory, pytest.raises(NotReadError, match="was not named"):
        memory.content(5)
    reading, writing = os.pipe()
    with ComingMemory() as memory, pytest.raises(NotReadError, match="cannot be mapped"):
        memory.map(reading, 5)
    os.close(writing)


def test_a_process_names_its_memory_ahead_of_its_answer(tmp_path, monkeypatch):
    path = make_adapter(MODELS["llama"], tmp_path / "a", target_modules="all-linear")
    request = ReadRequest(str(path), 64, None, DEFAULT_MAX_BYTES)
    seen: list[tuple[object, int | None]] = []
    ask = ChildProcess.ask

    def noting(child, request):
        for said in ask(child, request):
            seen.append(said)
            yield said

    monkeypatch.setattr(process.ChildProcess, "ask", noting)
    with read_process(SITES["llama"]) as ready:
        weights = ready.read(request)
        (memory, descriptor), (result, nothing) = seen
    assert isinstance(memory, ReadMemory)
    assert isinstance(result, ReadResult)
    assert descriptor is not None
    assert nothing is None
    assert memory.num_bytes >= weights.num_bytes
    assert result.num_bytes > memory.num_bytes
    assert weights.digest == result.digest
