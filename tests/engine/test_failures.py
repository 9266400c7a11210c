"""What goes wrong for one request stays with it, and what goes wrong for all says so."""

from __future__ import annotations

import pytest
import torch

from loramux import LLMEngine, LoRARequest, SamplingParams
from loramux.errors import AdapterRefusedError, EngineDeadError, LoramuxError
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
from tests.lora.peft_adapters import change_tensors, read_tensors

PROMPT = PROMPTS[6]
BY_TRANSFORMERS = {"model_impl": "transformers"}
"""Hooks of the model's modules are called."""


@pytest.fixture(scope="module", params=[1e18, 3e38], ids=["overflow to NaN", "overflow to inf"])
def broken(request, world, tmp_path_factory) -> LoRARequest:
    """An adapter of finite weights whose products are not finite."""
    path = copy_adapter(world.adapters["mlp"], tmp_path_factory.mktemp("broken") / "adapter")
    huge = {name: tensor.sign() * request.param for name, tensor in read_tensors(path).items()}
    change_tensors(path, huge)
    return LoRARequest("broken", 1, str(path))


def test_an_adapter_of_broken_numbers_fails_its_own_requests(engines, world, broken):
    jobs = [Job(PROMPT, lora) for lora in (broken, None, world.lora("mlp"), broken)]
    first, base, other, second = run(engines(), jobs)
    for output in (first, second):
        assert isinstance(output.error, AdapterRefusedError)
        assert broken.lora_path in str(output.error)
        assert output.outputs[0].finish_reason == "error"
    assert tokens(base) == world.greedy(None, PROMPT, NUM_TOKENS)
    assert tokens(other) == world.greedy("mlp", PROMPT, NUM_TOKENS)


@pytest.mark.parametrize("sampling", [{"temperature": 0.0}, {"temperature": 1.0, "top_p": 0.9}])
def test_the_blocks_of_a_broken_request_serve_the_next_one_exactly(
    engines, world, broken, sampling
):
    """Few blocks, so that whoever comes next gets those that are full of NaN."""
    engine = engines(num_gpu_blocks_override=16, max_num_seqs=2)
    for prompt in (PROMPT, PROMPTS[7], PROMPT):
        failed = run(engine, [Job(prompt, broken, SamplingParams(**sampling))])[0]
        assert isinstance(failed.error, AdapterRefusedError)
        for name in (None, "attention"):
            output = run(engine, [Job(prompt, world.lora(name))])[0]
            assert tokens(output) == world.greedy(name, prompt, NUM_TOKENS)


def test_one_broken_completion_ends_its_request(engines, broken):
    params = SamplingParams(n=3, max_tokens=4, temperature=1.0, logprobs=2, prompt_logprobs=1)
    output = run(engines(), [Job(PROMPT, broken, params)])[0]
    assert isinstance(output.error, AdapterRefusedError)
    assert output.finished


class FailingForward:
    """Raises in the middle of the model, as a kernel would, in engines ``BY_TRANSFORMERS``."""

    def __init__(self, engine: LLMEngine, error: Exception) -> None:
        layer = engine.core.runner._model.get_submodule("model.layers.1")
        self.left = 1
        self._error = error
        self._handle = layer.register_forward_pre_hook(self._fail)

    def _fail(self, *_: object) -> None:
        if self.left:
            self.left -= 1
            raise self._error

    def __enter__(self) -> FailingForward:
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


def test_a_step_that_raises_fails_who_was_in_it(engines, world):
    """The third request waits while the step fails, and never notices."""
    engine = engines(max_num_seqs=2, **BY_TRANSFORMERS)
    jobs = [Job(PROMPT, world.lora(name)) for name in (None, None, "mlp")]
    run(engine, [Job(PROMPTS[0], world.lora("mlp"), greedy_params(1))])
    with FailingForward(engine, RuntimeError("a kernel went wrong")):
        first, second, third = run(engine, jobs)
    for output in (first, second):
        assert type(output.error) is LoramuxError
        assert "a kernel went wrong" in str(output.error)
        assert output.outputs[0].finish_reason == "error"
    assert tokens(third) == world.greedy("mlp", PROMPT, NUM_TOKENS)


def test_requests_after_a_failed_step_are_right(engines, world):
    """Half of the failed step had been written to the cache."""
    engine = engines(num_gpu_blocks_override=16, **BY_TRANSFORMERS)
    with FailingForward(engine, RuntimeError("a kernel went wrong")):
        assert run(engine, [Job(PROMPT)])[0].error is not None
    for name in (None, "attention"):
        output = run(engine, [Job(PROMPT, world.lora(name))])[0]
        assert tokens(output) == world.greedy(name, PROMPT, NUM_TOKENS)
        assert output.num_cached_tokens == 0


def test_a_base_model_that_computes_nan_fails_the_row_that_has_it(engines, world):
    engine = engines(**BY_TRANSFORMERS)
    head = engine.core.runner._model.get_submodule("lm_head")

    def spoil_first_row(_module: object, _inputs: object, logits: torch.Tensor) -> None:
        if logits.shape[1] > 1:
            logits[0, 0] = float("nan")

    handle = head.register_forward_hook(spoil_first_row)
    first, second = run(engine, [Job(PROMPTS[3]), Job(PROMPTS[4])])
    handle.remove()
    assert type(first.error) is LoramuxError
    assert "base model" in str(first.error)
    assert tokens(second) == world.greedy(None, PROMPTS[4], NUM_TOKENS)


def test_memory_that_runs_out_ends_no_engine(engines, world):
    engine = engines(**BY_TRANSFORMERS)
    with FailingForward(engine, torch.OutOfMemoryError("no memory")):
        assert "no memory" in str(run(engine, [Job(PROMPT)])[0].error)
    assert tokens(run(engine, [Job(PROMPT)])[0]) == world.greedy(None, PROMPT, NUM_TOKENS)


def test_a_broken_device_ends_the_engine(engines):
    engine = engines(**BY_TRANSFORMERS)
    engine.add_request("x", {"prompt_token_ids": PROMPT}, greedy_params())
    with (
        FailingForward(engine, torch.AcceleratorError("CUDA error: an illegal memory access")),
        pytest.raises(EngineDeadError, match="illegal memory access"),
    ):
        engine.step()
    engine.abort_request("x")
    check_idle(engine)
