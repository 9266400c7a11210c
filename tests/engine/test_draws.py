"""Draws that repeat whatever else is in the batch, and that follow the model."""

from __future__ import annotations

import pytest
import torch

from loramux import SamplingParams
from tests.engine.world import PROMPTS, Job, greedy_params, run, tokens

NAMES = [None, "attention"]


def draw(**changes: object) -> SamplingParams:
    return SamplingParams(**{"seed": 7, "max_tokens": 12, "ignore_eos": True, **changes})


@pytest.mark.parametrize("name", [None, "mlp"])
def test_a_seed_repeats_its_draws_whatever_the_company(engines, world, name):
    engine = engines()
    mine = Job(PROMPTS[3], world.lora(name), draw(temperature=0.8, top_p=0.95))
    alone = tokens(run(engine, [mine])[0])
    company = [Job(p, world.lora(n), draw(seed=None)) for p in PROMPTS[:3] for n in NAMES]
    beside = run(engine, [*company, mine, *company])[len(company)]
    assert tokens(beside) == alone
    assert tokens(run(engine, [mine])[0]) == alone, "found in the cache of prefixes"
    assert alone != tokens(run(engine, [Job(mine.prompt, mine.lora, draw(seed=8))])[0])


def test_a_seed_repeats_its_draws_across_preemption(engines, monkeypatch):
    mine = Job(PROMPTS[6], None, draw(max_tokens=20))
    alone = tokens(run(engines(), [mine])[0])
    engine = engines(num_gpu_blocks_override=16)
    preempted = []
    queue = engine.core.scheduler.waiting
    push_front = queue.push_front
    monkeypatch.setattr(queue, "push_front", lambda s: (preempted.append(s), push_front(s)))
    company = [Job(PROMPTS[6], None, draw(seed=n, max_tokens=20)) for n in (1, 2)]
    assert tokens(run(engine, [*company, mine])[2]) == alone
    assert any(sequence.params.seed == 7 for sequence in preempted)


def test_every_token_has_a_draw_of_its_own(engines):
    """A generator that began anew at each step would go on alike from a longer prompt."""
    first = tokens(run(engines(), [Job(PROMPTS[3], None, draw(temperature=2.0))])[0])
    longer = [*PROMPTS[3], first[0]]
    second = tokens(run(engines(), [Job(longer, None, draw(temperature=2.0))])[0])
    assert second[:11] != first[1:]


def test_completions_of_a_request_differ_and_repeat_together(engines, world):
    job = Job(PROMPTS[3], world.lora("mlp"), draw(n=4))
    first, second = (run(engines(), [job])[0] for _ in range(2))
    completions = [one.token_ids for one in first.outputs]
    assert [one.index for one in first.outputs] == [0, 1, 2, 3]
    assert len(set(map(tuple, completions))) == 4
    assert completions == [one.token_ids for one in second.outputs]


def test_draws_follow_the_model(engines, world):
    """The first token of many completions, against the reference's probabilities."""
    params = SamplingParams(n=128, max_tokens=1, seed=3, temperature=1.0, ignore_eos=True)
    engine = engines(max_num_seqs=128, max_num_batched_tokens=128)
    for name in (None, "attention"):
        output = run(engine, [Job(PROMPTS[3], world.lora(name), params)])[0]
        drawn = torch.tensor([one.token_ids[0] for one in output.outputs])
        expected = world.logits(name, PROMPTS[3])[-1].softmax(-1)
        counted = torch.bincount(drawn, minlength=len(expected)) / 128
        assert (counted - expected).abs().sum() < 0.5, "a wrong model is about 2 away"


def test_penalties_count_what_was_generated_before_preemption(engines):
    job = Job(PROMPTS[6], None, greedy_params(20, repetition_penalty=1.5, frequency_penalty=0.5))
    alone = tokens(run(engines(), [job])[0])
    assert alone != tokens(run(engines(), [Job(PROMPTS[6], None, greedy_params(20))])[0])
    assert [tokens(o) for o in run(engines(num_gpu_blocks_override=16), [job] * 3)] == [alone] * 3
