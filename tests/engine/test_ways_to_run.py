"""Fused or not, overlapped or not: whatever runs a model, the tokens are PEFT's."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loramux import LLMEngine, StructuredOutputsParams
from loramux.errors import InvalidRequestError
from tests.engine.world import (
    NUM_TOKENS,
    PROMPTS,
    RECIPES,
    Job,
    greedy_params,
    make_engine,
    run,
    tokens,
)

WAYS = {
    "overlapped": {"async_scheduling": True},
    "fused": {"model_impl": "loramux"},
    "fused and overlapped": {"model_impl": "loramux", "async_scheduling": True},
    "fused, overlapped, short of blocks": {
        "model_impl": "loramux",
        "async_scheduling": True,
        "num_gpu_blocks_override": 18,
    },
    "fused, overlapped, gentle, nothing cached": {
        "model_impl": "loramux",
        "async_scheduling": True,
        "prefill_chunk_size": 3,
        "enable_prefix_caching": False,
    },
}


@pytest.fixture(scope="module", params=WAYS)
def engine(request, engines) -> LLMEngine:
    return engines(**WAYS[request.param])


def test_mixed_batches_are_pefts(world, engine):
    names = [None, *RECIPES]
    jobs = [
        Job(prompt, world.lora(names[(i + shift) % len(names)]), at=2 * i)
        for shift in range(3)
        for i, prompt in enumerate(PROMPTS)
    ]
    for job, output in zip(jobs, run(engine, jobs), strict=True):
        name = None if job.lora is None else job.lora.lora_name
        assert tokens(output) == world.greedy(name, job.prompt, NUM_TOKENS)


def test_penalties_see_every_token(world, engine, engines):
    """Their next step depends on tokens that would still be in flight."""
    params = greedy_params(repetition_penalty=1.7, frequency_penalty=0.5, min_tokens=3)
    jobs = [Job(prompt, world.lora("attention"), params) for prompt in PROMPTS]
    expected = [tokens(output) for output in run(engines(), jobs)]
    together = [*jobs, Job(PROMPTS[3])]
    assert [tokens(output) for output in run(engine, together)][:-1] == expected


def test_endings_are_those_of_the_plain_way(world, engine, engines):
    """A sequence that ends by a token has one more in flight, which nobody may see."""
    _, *stops = world.greedy(None, PROMPTS[5], 6)
    params = greedy_params(stop_token_ids=[stops[-1]])
    jobs = [Job(PROMPTS[5], None, params), Job(PROMPTS[5], None, greedy_params(1)), Job([5])]
    expected = run(engines(), jobs)
    for output, other in zip(run(engine, jobs), expected, strict=True):
        assert output.outputs[0].token_ids == other.outputs[0].token_ids
        assert output.outputs[0].finish_reason == other.outputs[0].finish_reason
        assert output.outputs[0].stop_reason == other.outputs[0].stop_reason


def test_log_probabilities_are_those_of_the_plain_way(world, engine, engines):
    params = greedy_params(5, logprobs=2, prompt_logprobs=1)
    jobs = [Job(prompt, world.lora("embeddings"), params) for prompt in PROMPTS]
    for output, other in zip(run(engine, jobs), run(engines(), jobs), strict=True):
        assert tokens(output) == tokens(other)
        mine, theirs = output.outputs[0].logprobs, other.outputs[0].logprobs
        for entry, reference in zip(mine, theirs, strict=True):
            assert entry.keys() == reference.keys()
            for token_id, logprob in entry.items():
                assert logprob.logprob == pytest.approx(reference[token_id].logprob, abs=1e-4)
        assert len(output.prompt_logprobs) == len(other.prompt_logprobs)


def test_seeded_draws_are_those_of_the_plain_way(world, engine, engines):
    params = greedy_params(8, temperature=0.9, seed=5, top_k=6, n=2)
    jobs = [Job(prompt, world.lora("mlp"), params) for prompt in PROMPTS[:4]]
    for output, other in zip(run(engine, jobs), run(engines(), jobs), strict=True):
        assert [o.token_ids for o in output.outputs] == [o.token_ids for o in other.outputs]


FORMS = {
    "json": StructuredOutputsParams(json={"type": "array", "items": {"type": "boolean"}}),
    "regex": StructuredOutputsParams(regex="[a-f]{3,9}"),
}
ASKED = [
    greedy_params(9, logprobs=1),
    greedy_params(4, prompt_logprobs=2, frequency_penalty=0.4),
    greedy_params(8, min_tokens=5, stop_token_ids=list(range(0, 90, 4))),
    greedy_params(12, repetition_penalty=1.5, logit_bias={7: 3.0}, ignore_eos=False),
    greedy_params(7, temperature=0.9, seed=3, n=2, min_p=0.01, stop=["a", "e"]),
    greedy_params(20, structured_outputs=FORMS["json"], presence_penalty=0.5),
    greedy_params(20, structured_outputs=FORMS["regex"], temperature=1.0, seed=2, n=2),
]
arrivals = st.tuples(
    st.sampled_from(range(len(PROMPTS))),
    st.sampled_from([None, "attention", "embeddings"]),
    st.sampled_from(ASKED),
    st.integers(0, 8),
)


@settings(deadline=None, max_examples=8, derandomize=True)
@given(plan=st.lists(arrivals, min_size=3, max_size=10))
def test_whatever_is_asked_side_by_side_is_answered_as_in_the_plain_way(
    world, engine, engines, plan
):
    jobs = [Job(PROMPTS[prompt], world.lora(name), asked, at) for prompt, name, asked, at in plan]
    for output, other in zip(run(engine, jobs), run(engines(), jobs), strict=True):
        assert output.error is None, output.error
        assert len(output.prompt_logprobs or ()) == len(other.prompt_logprobs or ())
        for mine, theirs in zip(output.outputs, other.outputs, strict=True):
            assert mine.token_ids == theirs.token_ids
            assert mine.finish_reason == theirs.finish_reason
            assert mine.stop_reason == theirs.stop_reason


def test_a_model_without_a_fused_form_is_refused_where_one_is_asked_for(world, monkeypatch):
    from loramux.models import loader

    monkeypatch.setattr(loader.FusedDecoder, "of", lambda model, length: None)
    with pytest.raises(InvalidRequestError, match="model_impl 'auto' or 'transformers'"):
        make_engine(world.model, model_impl="loramux")
    make_engine(world.model).shutdown()
