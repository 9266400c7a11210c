"""Engines whose adapters are read in another process: PEFT's tokens, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from loramux import LLMEngine
from loramux.engine import assembly, head_start
from loramux.lora.read_process.process import ReadProcess
from loramux.lora.read_process.reader import AdapterReader
from tests.engine.world import NUM_TOKENS, PROMPTS, RECIPES, Job, make_engine, run, tokens

START_SECONDS = 60
WAYS = {
    "tensors": {},
    "arena": {"lora_memory_bytes": 32 << 20, "model_impl": "loramux"},
}


@pytest.fixture
def readers(monkeypatch) -> list[AdapterReader]:
    """The readers of the engines that a test makes."""
    made: list[AdapterReader] = []

    class KnownReader(AdapterReader):
        def __init__(self, num_processes: int) -> None:
            super().__init__(num_processes)
            made.append(self)

    monkeypatch.setattr(head_start, "AdapterReader", KnownReader)
    return made


def processes(readers: list[AdapterReader]) -> list[ReadProcess]:
    return [process for reader in readers for process in reader._processes]


def run_all(engine: LLMEngine, world) -> None:
    jobs = [Job(PROMPTS[i % len(PROMPTS)], world.lora(name)) for i, name in enumerate(RECIPES)]
    for job, output in zip(jobs, run(engine, jobs), strict=True):
        assert tokens(output) == world.greedy(job.lora.lora_name, job.prompt, NUM_TOKENS)


@pytest.mark.parametrize("way", WAYS)
def test_tokens_are_pefts(way, world, readers, monkeypatch):
    monkeypatch.setenv("LORAMUX_READ_PROCESSES", "2")
    engine = make_engine(world.model, **WAYS[way])
    assert readers[0].wait_until_ready(START_SECONDS)
    run_all(engine, world)
    ids = [process.process_id for process in processes(readers)]
    assert len(ids) == 2
    engine.shutdown()
    assert not any(Path(f"/proc/{number}").exists() for number in ids)


def test_an_engine_on_a_cpu_has_none_unless_told(world, readers, monkeypatch):
    monkeypatch.delenv("LORAMUX_READ_PROCESSES", raising=False)
    engine = make_engine(world.model, device="cpu")
    run_all(engine, world)
    assert processes(readers) == []
    engine.shutdown()


def test_an_engine_that_fails_to_start_ends_its_process(world, readers, monkeypatch):
    monkeypatch.setenv("LORAMUX_READ_PROCESSES", "1")
    monkeypatch.setattr(assembly, "load_model", lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_engine(world.model)
    (process,) = processes(readers)
    assert not Path(f"/proc/{process.process_id}").exists()
