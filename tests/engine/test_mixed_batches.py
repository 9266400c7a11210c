"""Any mix of adapters and base model, arriving whenever, equals PEFT token for token."""

from __future__ import annotations

import random

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from loramux import LLMEngine, RequestOutput
from tests.engine.world import NUM_TOKENS, PROMPTS, RECIPES, Job, World, greedy_params, run, tokens

NAMES = [None, *RECIPES]


def check(
    engine: LLMEngine, world: World, plan: list[tuple[str | None, int, int, int]]
) -> list[RequestOutput]:
    """Run ``(adapter, prompt, tokens, step of arrival)`` and compare each with the reference."""
    jobs = [
        Job(PROMPTS[prompt], world.lora(name), greedy_params(count), at)
        for name, prompt, count, at in plan
    ]
    outputs = run(engine, jobs)
    for (name, prompt, count, _), output in zip(plan, outputs, strict=True):
        assert tokens(output) == world.greedy(name, PROMPTS[prompt], count), (name, prompt)
        assert output.lora_request == world.lora(name)
        assert output.outputs[0].finish_reason == "length"
    return outputs


class Preemptions:
    """Counts how often a sequence has to give its blocks back."""

    def __init__(self, engine: LLMEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        queue = engine.core.scheduler.waiting
        push_front = queue.push_front

        def counted(sequence: object) -> None:
            self.count += 1
            push_front(sequence)

        monkeypatch.setattr(queue, "push_front", counted)


@pytest.mark.parametrize("max_loras", [1, 2, 8])
def test_all_adapters_at_once(engines, world, max_loras):
    plan = [(name, number % len(PROMPTS), 10, 0) for number, name in enumerate(NAMES * 2)]
    random.Random(max_loras).shuffle(plan)
    check(engines(max_loras=max_loras), world, plan)


@pytest.mark.parametrize("prompt", range(len(PROMPTS)))
def test_every_adapter_alone(engines, world, prompt):
    for name in NAMES:
        check(engines(max_loras=1), world, [(name, prompt, NUM_TOKENS, 0)])


def test_the_adapters_of_this_room_change_what_is_generated(world):
    """Without this, a test in which adapters are not applied at all could pass."""
    for prompt in PROMPTS:
        answers = {tuple(world.greedy(name, prompt, NUM_TOKENS)) for name in NAMES}
        assert len(answers) == len(NAMES)


def test_one_adapter_in_host_memory_serves_them_all(engines, world):
    engine = engines(max_loras=1, max_cpu_loras=1)
    plan = [(name, number % 5, 6, number % 3) for number, name in enumerate(NAMES * 3)]
    check(engine, world, plan)
    assert len(engine.materializer.host_cache) == 1


arrivals = st.tuples(
    st.sampled_from(NAMES),
    st.integers(0, len(PROMPTS) - 1),
    st.integers(1, NUM_TOKENS),
    st.integers(0, 12),
)


@pytest.mark.parametrize("max_loras", [1, 2, 8])
@settings(deadline=None, max_examples=6, derandomize=True)
@given(plan=st.lists(arrivals, min_size=4, max_size=12))
def test_random_arrivals_over_few_blocks(engines, world, max_loras, plan):
    """Blocks for little more than one sequence, and prompts that are computed in pieces."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        engine = engines(max_loras=max_loras, num_gpu_blocks_override=16, max_num_batched_tokens=10)
        preemptions = Preemptions(engine, monkeypatch)
        check(engine, world, plan)
        event(f"preempted {preemptions.count > 0}")


@pytest.mark.parametrize("enable_prefix_caching", [True, False])
def test_preempted_sequences_go_on_where_they_were(
    engines, world, enable_prefix_caching, monkeypatch
):
    engine = engines(num_gpu_blocks_override=16, enable_prefix_caching=enable_prefix_caching)
    preemptions = Preemptions(engine, monkeypatch)
    outputs = check(engine, world, [(name, 6, NUM_TOKENS, 0) for name in NAMES[:5]])
    assert preemptions.count > 0
    cached = [output.num_cached_tokens for output in outputs]
    assert cached == [0] * 5, "what a sequence computed itself is no hit"
