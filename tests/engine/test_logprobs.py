"""Log probabilities of generated and of prompt tokens, held to the reference's logits."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch

from loramux import SamplingParams
from loramux.engine.running.prompt_positions import PromptPositions
from loramux.engine.scheduling import scheduler
from loramux.outputs import Logprob
from loramux.sampling_params import RequestOutputKind
from tests.engine.world import NUM_TOKENS, PROMPTS, Job, greedy_params, run, tokens

LONG = PROMPTS[7]
ADAPTERS = [None, "attention", "wide", "embeddings"]


def check_position(entries: dict[int, Logprob], logits: torch.Tensor, own: int, count: int) -> None:
    """One position's log probabilities and ranks against reference logits."""
    expected = logits.log_softmax(-1)
    best = expected.topk(count).indices.tolist()
    assert next(iter(entries)) == own
    assert set(entries) == {own, *best}
    for token_id, entry in entries.items():
        assert entry.logprob == pytest.approx(expected[token_id].item(), abs=1e-4)
        assert entry.rank == (expected > expected[token_id]).sum().item() + 1


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("count", [0, 3])
def test_logprobs_are_the_model_s_own(engines, world, name, count):
    params = SamplingParams(
        logprobs=count, temperature=0.5, top_k=5, seed=7, max_tokens=12, ignore_eos=True
    )
    job = Job(PROMPTS[4], world.lora(name), params)
    completion = run(engines(), [job])[0].outputs[0]
    logits = world.logits(name, [*PROMPTS[4], *completion.token_ids])[len(PROMPTS[4]) - 1 :]
    assert len(completion.logprobs) == len(completion.token_ids)
    for place, token_id in enumerate(completion.token_ids):
        check_position(completion.logprobs[place], logits[place], token_id, count)
    own = [p[t].logprob for p, t in zip(completion.logprobs, completion.token_ids, strict=True)]
    assert completion.cumulative_logprob == pytest.approx(math.fsum(own))


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("budget", [8, 9, 64])
def test_prompt_logprobs_are_the_model_s_own(engines, world, name, budget):
    """However many pieces the prompt is computed in, and after it has been cached."""
    engine = engines(max_num_batched_tokens=budget)
    params = greedy_params(2, prompt_logprobs=2)
    for prompt in (LONG, PROMPTS[0], LONG):
        output = run(engine, [Job(prompt, world.lora(name), params), Job(PROMPTS[5])])[0]
        logits = world.logits(name, prompt)
        assert output.prompt_logprobs[0] is None
        assert len(output.prompt_logprobs) == len(prompt)
        for place in range(1, len(prompt)):
            check_position(output.prompt_logprobs[place], logits[place - 1], prompt[place], 2)


@pytest.mark.parametrize("blocks", [64, 16])
def test_a_step_scores_a_bounded_number_of_positions(engines, world, monkeypatch, blocks):
    """A row of logits is as wide as the vocabulary; who shares the step is not held up by it."""
    monkeypatch.setattr(scheduler, "MAX_SCORED_POSITIONS", 5)
    engine = engines(num_gpu_blocks_override=blocks)
    num_rows: list[int] = []
    forward = type(engine.core.runner._forward)
    original = forward.__call__

    def recorded(self: object, layout: object, logit_rows: list[int]) -> torch.Tensor:
        num_rows.append(len(logit_rows))
        return original(self, layout, logit_rows)

    monkeypatch.setattr(forward, "__call__", recorded)
    params = greedy_params(2, prompt_logprobs=2)
    jobs = [Job(LONG, world.lora("attention"), params), Job(LONG, None, params), Job(PROMPTS[5])]
    outputs = run(engine, jobs)
    assert max(num_rows) <= len(jobs) + 5
    for job, output in zip(jobs[:2], outputs, strict=False):
        logits = world.logits(job.lora and "attention", LONG)
        for place in range(1, len(LONG)):
            check_position(output.prompt_logprobs[place], logits[place - 1], LONG[place], 2)
    assert tokens(outputs[2]) == world.greedy(None, PROMPTS[5], NUM_TOKENS)


def test_only_the_first_completion_scores_the_prompt(engines, world, monkeypatch):
    engine = engines()
    scored = []
    original = PromptPositions.logprobs
    monkeypatch.setattr(
        PromptPositions,
        "logprobs",
        lambda self, logits: scored.extend(self.rows) or original(self, logits),
    )
    params = SamplingParams(n=3, max_tokens=2, prompt_logprobs=0, ignore_eos=True)
    output = run(engine, [Job(LONG, None, params)])[0]
    assert len(scored) == len(LONG) - 1
    assert len(output.prompt_logprobs) == len(LONG)


def test_a_stream_begins_with_its_whole_prompt(engines, world, monkeypatch):
    """The other completions of a request may be ahead of the one that scores it."""
    monkeypatch.setattr(scheduler, "MAX_SCORED_POSITIONS", 5)
    engine = engines(max_num_batched_tokens=64)
    fields = {"n": 3, "max_tokens": 8, "prompt_logprobs": 0, "ignore_eos": True}
    params = SamplingParams(**fields, output_kind=RequestOutputKind.DELTA)
    engine.add_request("stream", {"prompt_token_ids": PROMPTS[6]}, params)
    first, *later = itertools.chain.from_iterable(
        engine.step() for _ in iter(engine.has_unfinished_requests, False)
    )
    assert len(first.prompt_logprobs) == len(PROMPTS[6])
    assert [output.prompt_logprobs for output in later] == [None] * len(later)
    lengths: Counter[int] = Counter()
    for completion in itertools.chain(*(output.outputs for output in (first, *later))):
        lengths[completion.index] += len(completion.token_ids)
    assert lengths == {0: 8, 1: 8, 2: 8}


def test_prompt_logprobs_survive_preemption(engines, world):
    engine = engines(num_gpu_blocks_override=16)
    params = greedy_params(NUM_TOKENS, prompt_logprobs=0)
    outputs = run(engine, [Job(LONG, None, params) for _ in range(3)])
    logits = world.logits(None, LONG)
    for output in outputs:
        assert len(output.prompt_logprobs) == len(LONG)
        for place in range(1, len(LONG)):
            check_position(output.prompt_logprobs[place], logits[place - 1], LONG[place], 0)
