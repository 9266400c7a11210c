"""Shared memory and the spares of it: the bytes asked for, others only in number."""

from __future__ import annotations

import errno
import os
import time
from contextlib import closing

import pytest

from loramux.lora.read_process import spare_memory
from loramux.lora.read_process.shared_memory import SharedFile, map_shared
from loramux.lora.read_process.spare_memory import MAX_SPARES, SpareMemory

PAGE = 4096


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(spare_memory, "MIN_BYTES", PAGE)
    monkeypatch.setattr(spare_memory, "MAX_BYTES", 100 * PAGE)


@pytest.fixture
def memory() -> SpareMemory:
    return SpareMemory()


def wait_for(memory: SpareMemory, count: int) -> None:
    deadline = time.monotonic() + 60
    while memory.num_spares < count and time.monotonic() < deadline:
        time.sleep(0.001)
    assert memory.num_spares == count


def inode(file: SharedFile) -> int:
    return os.fstat(file.descriptor).st_ino


def test_what_one_process_writes_another_sees():
    with closing(SharedFile(3 * PAGE)) as file:
        file.content[:] = 7
        start = file.append(b"behind", 16)
        content = map_shared(file.descriptor, file.num_bytes)
    assert content[start:].tobytes() == b"behind"
    assert (content[: 3 * PAGE] == 7).all()
    content[0] = 8
    assert file.content[0] == 8


def test_a_file_without_content_takes_what_is_appended():
    with closing(SharedFile()) as file:
        assert file.append(b"abc", 16) == 0
        assert file.append(b"d", 16) == 16
        assert map_shared(file.descriptor, file.num_bytes)[16:].tobytes() == b"d"


def test_memory_that_is_not_there_is_told_and_leaves_no_descriptor():
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match=os.strerror(errno.ENOMEM)):
        SharedFile(2**62)
    assert os.listdir("/proc/self/fd") == before


def test_a_spare_is_ready_for_the_next_of_its_size(memory):
    with closing(memory.take(10 * PAGE)):
        wait_for(memory, 1)
    spare = inode(memory._spares[0])
    with closing(memory.take(10 * PAGE)) as file:
        assert inode(file) == spare
        assert os.fstat(file.descriptor).st_blocks * 512 == 10 * PAGE  # it was touched
        wait_for(memory, 1)


@pytest.mark.parametrize(("size", "fits"), [(9, True), (8, True), (7, False), (11, False)])
def test_spares_of_about_the_size_are_cut(memory, size, fits):
    with closing(memory.take(10 * PAGE)):
        wait_for(memory, 1)
    spare = inode(memory._spares[0])
    with closing(memory.take(size * PAGE)) as file:
        assert (inode(file) == spare) == fits
        assert file.content.size == file.num_bytes == size * PAGE
        start = file.append(b"behind", 1)
        assert start == size * PAGE
        assert map_shared(file.descriptor, file.num_bytes)[start:].tobytes() == b"behind"


def test_spares_are_few_and_of_the_latest_sizes(memory):
    for size in range(10, 10 + 10 * MAX_SPARES, 10):
        memory.take(size * PAGE).close()
        wait_for(memory, min(size // 10, MAX_SPARES))
    memory.take(90 * PAGE).close()
    deadline = time.monotonic() + 60
    while memory._spares[-1].num_bytes != 90 * PAGE and time.monotonic() < deadline:
        time.sleep(0.001)
    assert memory.num_spares == MAX_SPARES


@pytest.mark.parametrize("size", [0, PAGE - 1, 100 * PAGE + 1])
def test_the_smallest_and_the_largest_have_none(memory, size):
    with closing(memory.take(size)) as file:
        assert file.content.size == size
    with closing(memory.take(50 * PAGE)):
        wait_for(memory, 1)
    assert memory._spares[0].num_bytes == 50 * PAGE
