"""Reading a file in pieces: every byte once, whatever the number of threads."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
from blake3 import blake3

from loramux.env import EnvironmentVariableError
from loramux.lora.checkpoint import pieces as pieces_module
from loramux.lora.checkpoint import read_threads as pool
from loramux.lora.checkpoint.pieces import FileShortenedError, Pieces, reading_pieces
from loramux.lora.checkpoint.read_threads import read_threads, shared_out

PIECE = 64


def read_pieces(*arguments) -> Pieces:
    with reading_pieces(*arguments) as pieces:
        return pieces()


def share_out(count, work) -> None:
    with shared_out(count, work) as finish:
        finish()


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(pieces_module, "PIECE_BYTES", PIECE)


@pytest.fixture(params=[1, 2, 5])
def threads(request, monkeypatch) -> int:
    monkeypatch.setenv("LORAMUX_READ_THREADS", str(request.param))
    return request.param


@pytest.fixture
def descriptor(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(i * 7 % 251 for i in range(10 * PIECE + 5)))
    opened = os.open(path, os.O_RDWR)
    yield opened
    os.close(opened)


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 10 * PIECE])
@pytest.mark.parametrize("origin", [0, 5])
def test_content_and_hashes(descriptor, threads, origin, size):
    expected = os.pread(descriptor, size, origin)
    read = read_pieces(descriptor, origin, size, lambda piece, start: False)
    assert read.content.tobytes() == expected
    parts = [expected[start : start + PIECE] for start in range(0, size, PIECE)]
    assert read.hashes == b"".join(blake3(part).digest() for part in parts)


def test_each_byte_is_read_once_even_if_the_system_brings_little(descriptor, threads, monkeypatch):
    counts = [0] * (10 * PIECE)
    real = os.preadv

    def meagre(file, buffers, offset):
        got = real(file, [buffers[0][:23]], offset)
        for position in range(offset, offset + got):
            counts[position] += 1
        return got

    monkeypatch.setattr(os, "preadv", meagre)
    read = read_pieces(descriptor, 0, 10 * PIECE, lambda piece, start: False)
    assert read.content.tobytes() == os.pread(descriptor, 10 * PIECE, 0)
    assert set(counts) == {1}


def test_suspicious_pieces_are_remembered(descriptor, threads):
    read = read_pieces(descriptor, 0, 10 * PIECE, lambda piece, start: start in (0, 3 * PIECE))
    assert read.suspicious == {0, 3}
    assert read.is_suspicious(2 * PIECE, 3 * PIECE + 1)
    assert not read.is_suspicious(PIECE, 3 * PIECE)
    assert not read.is_suspicious(4 * PIECE, 10 * PIECE)


def test_files_that_end_early(descriptor, threads):
    with pytest.raises(FileShortenedError):
        read_pieces(descriptor, 0, 10 * PIECE + 6, lambda piece, start: False)


def test_failures_of_one_piece_end_the_reading(descriptor, threads, monkeypatch):
    real, failed = os.preadv, threading.Event()

    def failing(file, buffers, offset):
        if offset >= 2 * PIECE:
            failed.set()
            raise OSError(5, "Input/output error")
        return real(file, buffers, offset)

    monkeypatch.setattr(os, "preadv", failing)
    with pytest.raises(OSError, match="Input/output error"):
        read_pieces(descriptor, 0, 10 * PIECE, lambda piece, start: False)
    assert failed.is_set()


def test_all_is_done_by_the_caller_while_the_pool_is_busy(monkeypatch):
    monkeypatch.setenv("LORAMUX_READ_THREADS", "2")
    release, done = threading.Event(), []
    with ThreadPoolExecutor(1) as other:
        # Two long pieces hold the pool's threads and the one beside it.
        busy = other.submit(share_out, 3, lambda position: release.wait(60))
        share_out(40, done.append)
        assert sorted(done) == list(range(40))
        release.set()
        busy.result()


def test_threads_share_the_work(monkeypatch):
    monkeypatch.setenv("LORAMUX_READ_THREADS", "4")
    together = threading.Barrier(4)  # passes only if four threads are in it at a time
    share_out(4, lambda position: together.wait(60))


def test_nothing_goes_on_behind_a_reader_that_leaves_early(monkeypatch):
    monkeypatch.setenv("LORAMUX_READ_THREADS", "2")
    begun, release, done = threading.Event(), threading.Event(), []

    def work(position):
        begun.set()
        release.wait(60)
        done.append(position)

    with shared_out(40, work):
        assert begun.wait(60)
        # Released only when the block has been left, and what goes on is waited for.
        monkeypatch.setattr(pool, "wait", lambda going_on: (release.set(), wait(going_on)))
    assert len(done) == 1


def test_number_of_threads(monkeypatch):
    monkeypatch.delenv("LORAMUX_READ_THREADS", raising=False)
    assert 1 <= read_threads() <= 16
    monkeypatch.setenv("LORAMUX_READ_THREADS", "0")
    with pytest.raises(EnvironmentVariableError, match="LORAMUX_READ_THREADS"):
        read_threads()
