"""Kernels compiled ahead are those that are launched; and what goes wrong with it stops nothing."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context

import pytest
import torch

from loramux.engine.running import kernel_compiler
from tests.kernels.ahead_cases import (
    cache_keys_in_both_orders,
    fork_tasks_one_of_which_fails,
    rehearse_compile_and_launch,
)


@pytest.fixture(scope="module")
def process():
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        yield process


def test_what_was_rehearsed_and_compiled_elsewhere_is_found_by_the_launch(process, tmp_path):
    seen = process.submit(rehearse_compile_and_launch, str(tmp_path)).result()
    assert (seen["rehearsed"], seen["compiled_early"]) == ([], [])
    assert sorted(seen["asked"]) == sorted(
        ["_normalize_row", "_activate", "_activate", "_rotate_and_store", "_place"]
    )
    assert seen["is_well"]
    assert len(seen["launched"]) == 7
    assert seen["cache_hits"] == [True] * len(seen["asked"])
    assert (seen["launched_in_second_rehearsal"], seen["asked_again"]) == ([], [])


def test_a_kernel_is_found_again_in_whatever_order_kernels_are_launched():
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        one, other = fresh.submit(cache_keys_in_both_orders).result()
    assert len(one) == 2
    assert one == other


def test_a_kernel_that_does_not_compile_is_told(process):
    assert process.submit(fork_tasks_one_of_which_fails).result() is False


@pytest.mark.parametrize("fails", ["process", "rehearsal"])
def test_the_engine_starts_without_it(fails, monkeypatch, caplog):
    monkeypatch.setattr(kernel_compiler, "PROCESS", "loramux_kernels.ahead.nowhere")
    monkeypatch.setattr("loramux_kernels.ahead.compiler.order_of", lambda asked: "{}")
    monkeypatch.setattr(kernel_compiler, "find_spec", lambda name: True)
    with ExitStack() as on_failure, caplog.at_level(logging.WARNING):
        compiler = kernel_compiler.start_compiler(torch.device("cuda:0"), on_failure)
        compiler.prepare(lambda: ["a kernel"] if fails == "process" else 1 / 0)
    [line] = [record.getMessage() for record in caplog.records]
    assert "one by one" in line
    assert ("nowhere" if fails == "process" else "division by zero") in line
    assert compiler._process.poll() is not None


def test_an_engine_that_does_not_start_leaves_no_process():
    with ExitStack() as on_failure:
        compiler = kernel_compiler.start_compiler(torch.device("cuda:0"), on_failure)
        assert compiler._process.poll() is None
    assert compiler._process.poll() == -9


def test_what_outlives_the_process_is_ended_with_it(monkeypatch, tmp_path):
    """As when memory runs out and the kernel ends the one process and not its forks."""
    script = tmp_path / "compiler"
    script.write_text("#!/bin/sh\nsleep 600 &\nkill -9 $$\n")
    script.chmod(0o700)
    monkeypatch.setattr("sys.executable", str(script))
    compiler = kernel_compiler.KernelCompiler()
    compiler._process.wait()
    started = time.monotonic()
    compiler.close()
    assert time.monotonic() - started < 30


def test_a_cpu_has_nothing_to_compile():
    with ExitStack() as on_failure:
        assert kernel_compiler.start_compiler(torch.device("cpu"), on_failure) is None
