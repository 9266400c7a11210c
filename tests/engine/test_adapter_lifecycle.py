"""Adapters that are shared, replaced, lost and refused while requests wait for them or run."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from loramux import LLMEngine, LoRARequest
from loramux.errors import (
    AdapterNotFoundError,
    AdapterRefusedError,
    AdapterUnavailableError,
)
from loramux.lora.fetch.origin import LocalCheckpoint
from loramux.lora.weights import AdapterWeights
from tests.engine.world import (
    NUM_TOKENS,
    PROMPTS,
    Job,
    check_idle,
    copy_adapter,
    greedy_params,
    run,
    tokens,
)
from tests.lora.peft_adapters import change_config

PROMPT = PROMPTS[6]


class CountedReads:
    """Counts reads of checkpoints, and lets them through when told."""

    def __init__(self, engine: LLMEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self._read = engine.materializer._read
        monkeypatch.setattr(engine.materializer, "_read", self)

    def __call__(self, source: LocalCheckpoint) -> AdapterWeights:
        self.paths.append(source.directory.name)
        assert self.gate.wait(240)
        return self._read(source)


@pytest.fixture
def mine(world, tmp_path) -> Path:
    return copy_adapter(world.adapters["attention"], tmp_path / "mine")


def lora(path: Path, name: str = "mine") -> LoRARequest:
    return LoRARequest(name, 1, str(path))


def step_until_running(engine: LLMEngine, count: int = 1) -> None:
    for _ in range(2000):
        if len(engine.core.scheduler.running) >= count:
            return
        engine.step()
    raise AssertionError("nothing began to run")


def finish(engine: LLMEngine) -> dict[str, list[int]]:
    finished = {}
    while engine.has_unfinished_requests():
        for output in engine.step():
            if output.finished:
                finished[output.request_id] = tokens(output)
    return finished


def test_fifty_requests_for_one_new_adapter_read_it_once(engines, mine, monkeypatch):
    reads = CountedReads(engines(), monkeypatch)
    outputs = run(engines(), [Job(PROMPTS[0], lora(mine), greedy_params(2)) for _ in range(50)])
    assert len({tuple(tokens(output)) for output in outputs}) == 1
    assert reads.paths == ["mine"]


def test_equal_bytes_are_one_adapter_on_the_device(engines, world, tmp_path):
    paths = [copy_adapter(world.adapters["narrow"], tmp_path / str(n)) for n in range(3)]
    engine = engines(max_loras=1)
    jobs = [Job(PROMPT, lora(path, path.name), greedy_params(4)) for path in paths]
    assert len({output.adapter_digest for output in run(engine, jobs)}) == 1
    assert len(engine._lora.pool.resident_digests) == 1


def test_who_runs_keeps_the_old_bytes_and_who_comes_gets_the_new(engines, world, mine):
    engine = engines()
    params = greedy_params()
    engine.add_request("old", {"prompt_token_ids": PROMPT}, params, lora(mine))
    step_until_running(engine)
    copy_adapter(world.adapters["mlp"], mine)
    engine.add_request("new", {"prompt_token_ids": PROMPT}, params, lora(mine))
    assert finish(engine) == {
        "old": world.greedy("attention", PROMPT, NUM_TOKENS),
        "new": world.greedy("mlp", PROMPT, NUM_TOKENS),
    }
    check_idle(engine)


def test_a_sequence_that_was_preempted_keeps_the_old_bytes(engines, world, mine):
    """Even where its adapter has left the host before it could go on."""
    engine = engines(max_loras=1, max_cpu_loras=1, num_gpu_blocks_override=16)
    prompt = {"prompt_token_ids": PROMPTS[7]}
    engine.materializer.load(lora(mine)).result(240)
    engine.add_request("base", prompt, greedy_params())
    engine.add_request("old", prompt, greedy_params(), lora(mine))
    step_until_running(engine, 2)
    while len(engine.core.scheduler.running) == 2:
        engine.step()
    assert engine.core.scheduler.waiting, "the younger one must have been preempted"
    copy_adapter(world.adapters["mlp"], mine)
    engine.materializer.load(world.lora("narrow")).result(240)
    assert len(engine.materializer.host_cache) == 1
    finished = finish(engine)
    assert finished["old"] == world.greedy("attention", PROMPTS[7], NUM_TOKENS)
    check_idle(engine)


def test_files_that_vanish_before_the_adapter_is_placed_end_its_requests_only(engines, world, mine):
    engine = engines(max_loras=1, max_cpu_loras=1)
    engine.materializer.load(lora(mine)).result(240)
    engine.materializer.load(world.lora("mlp")).result(240)  # drives the first out of the host
    shutil.rmtree(mine)
    adapter = dict(engine.materializer._known.named())["mine"]
    for name in ("lost", "also lost"):
        prepared = engine.prepare(name, {"prompt_token_ids": PROMPT}, greedy_params(4), lora(mine))
        engine.submit(prepared, adapter)
    engine.add_request("base", {"prompt_token_ids": PROMPT}, greedy_params(4))
    engine.add_request("mlp", {"prompt_token_ids": PROMPT}, greedy_params(4), world.lora("mlp"))
    errors, finished = {}, {}
    while engine.has_unfinished_requests():
        for output in engine.step():
            if output.error is not None:
                errors[output.request_id] = output.error
                assert output.outputs[0].finish_reason == "error"
            elif output.finished:
                finished[output.request_id] = tokens(output)
    assert set(errors) == {"lost", "also lost"}
    assert all(isinstance(error, AdapterUnavailableError) for error in errors.values())
    assert all("went while it was waited for" in str(error) for error in errors.values())
    assert finished == {
        name: world.greedy(n, PROMPT, 4) for name, n in [("base", None), ("mlp", "mlp")]
    }
    check_idle(engine)


def test_an_adapter_is_read_no_more_often_than_it_fails(engines, mine, monkeypatch):
    engine = engines(max_loras=1, max_cpu_loras=1)
    adapter = engine.materializer.load(lora(mine)).result(240)
    engine.materializer.host_cache.discard(adapter.digest)
    shutil.rmtree(mine)
    reads = CountedReads(engine, monkeypatch)
    prepared = engine.prepare("lost", {"prompt_token_ids": PROMPT}, greedy_params(4), lora(mine))
    engine.submit(prepared, adapter)
    while engine.has_unfinished_requests():
        engine.step()
    run(engine, [Job(PROMPT)])
    assert reads.paths == ["mine"]


BROKEN = {
    "no configuration": lambda path: (path / "adapter_config.json").unlink(),
    "no tensors": lambda path: (path / "adapter_model.safetensors").unlink(),
    "cut off": lambda path: (path / "adapter_model.safetensors").write_bytes(b"\x08" + bytes(20)),
    "too wide": lambda path: change_config(path, r=4096),
    "for another base": lambda path: change_config(path, base_model_name_or_path="some/other"),
    "gone": shutil.rmtree,
}


@pytest.mark.parametrize("breaking", BROKEN.values(), ids=BROKEN.keys())
def test_a_refused_adapter_ends_its_own_request(engines, world, mine, breaking):
    breaking(mine)
    jobs = [Job(PROMPT, request, greedy_params(4)) for request in (lora(mine), None)]
    jobs.append(Job(PROMPT, world.lora("mlp"), greedy_params(4)))
    refused, base, other = run(engines(), jobs)
    assert isinstance(refused.error, AdapterRefusedError)
    assert str(refused.error).endswith(".")
    assert refused.finished
    assert refused.outputs[0].finish_reason == "error"
    assert refused.outputs[0].token_ids == []
    assert refused.lora_request == lora(mine)
    assert tokens(base) == world.greedy(None, PROMPT, 4)
    assert tokens(other) == world.greedy("mlp", PROMPT, 4)


def test_a_refused_adapter_is_served_once_it_is_mended(engines, world, mine):
    shutil.move(mine, mine.with_name("away"))
    assert isinstance(run(engines(), [Job(PROMPT, lora(mine))])[0].error, AdapterNotFoundError)
    shutil.move(mine.with_name("away"), mine)
    output = run(engines(), [Job(PROMPT, lora(mine))])[0]
    assert tokens(output) == world.greedy("attention", PROMPT, NUM_TOKENS)


def test_nobody_waits_for_an_adapter_that_is_read_slowly(engines, world, mine, monkeypatch):
    engine = engines()
    reads = CountedReads(engine, monkeypatch)
    reads.gate.clear()
    engine.add_request("slow", {"prompt_token_ids": PROMPT}, greedy_params(4), lora(mine))
    engine.add_request("base", {"prompt_token_ids": PROMPT}, greedy_params(4))
    done = []
    while not done:
        done += [output.request_id for output in engine.step() if output.finished]
    assert done == ["base"]
    reads.gate.set()
    assert finish(engine) == {"slow": world.greedy("attention", PROMPT, 4)}
    check_idle(engine)


def test_aborting_the_last_who_waits_for_a_read_leaves_nothing(engines, mine, monkeypatch):
    engine = engines()
    reads = CountedReads(engine, monkeypatch)
    reads.gate.clear()
    for name in ("one", "two"):
        engine.add_request(name, {"prompt_token_ids": PROMPT}, greedy_params(4), lora(mine))
    while not reads.paths:
        engine.step()
    engine.abort_request(["one", "two"])
    check_idle(engine)
    assert engine.materializer.num_under_way == 0
    reads.gate.set()
    run(engine, [Job(PROMPTS[0], lora(mine), greedy_params(1))])
    assert reads.paths == ["mine", "mine"], "what everybody had left was not kept"


def test_a_request_aborted_while_its_adapter_is_read_says_so(engines, mine, monkeypatch):
    engine = engines()
    reads = CountedReads(engine, monkeypatch)
    reads.gate.clear()
    params = greedy_params(4, n=2, temperature=1.0)
    engine.add_request("x", {"prompt_token_ids": PROMPT}, params, lora(mine))
    (output,) = engine.abort_request("x")
    reads.gate.set()
    assert (output.request_id, output.finished, output.error) == ("x", True, None)
    assert [one.finish_reason for one in output.outputs] == ["abort", "abort"]
