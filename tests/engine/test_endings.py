"""How sequences end: by a stop, by themselves, or by a length."""

from __future__ import annotations

import pytest

from loramux import LLMEngine, RequestOutput, SamplingParams
from tests.engine.world import MAX_MODEL_LEN, NUM_TOKENS, PROMPTS, Job, greedy_params, run, tokens

LONG = PROMPTS[7]


def answer(engine: LLMEngine, params: SamplingParams, prompt: list[int] = LONG) -> RequestOutput:
    return run(engine, [Job(prompt, None, params)])[0]


@pytest.fixture
def greedy(world) -> list[int]:
    return world.greedy(None, LONG, NUM_TOKENS)


def test_a_stop_token_ends_the_completion_and_is_told(engines, greedy):
    stop = greedy[4]
    end = greedy.index(stop) + 1
    completion = answer(engines(), greedy_params(stop_token_ids=[stop, 95])).outputs[0]
    assert completion.token_ids == greedy[:end]
    assert (completion.finish_reason, completion.stop_reason) == ("stop", stop)


def test_min_tokens_bars_every_ending(engines, world, greedy):
    stop = greedy[1]
    completion = answer(engines(), greedy_params(12, stop_token_ids=[stop], min_tokens=6)).outputs[
        0
    ]
    assert len(completion.token_ids) >= 6
    assert stop not in completion.token_ids[:6]
    logits = world.logits(None, [*LONG, *completion.token_ids])[len(LONG) - 1 :]
    logits[:, [stop, engines().tokenizer.eos_token_id]] = float("-inf")
    assert completion.token_ids[:6] == logits.argmax(-1).tolist()[:6]


def ending_place(engine: LLMEngine) -> tuple[list[int], int]:
    """A prompt whose greedy completion holds an end-of-sequence token, and where."""
    prompts = [[first, 17, first] for first in range(90)]
    outputs = run(engine, [Job(prompt) for prompt in prompts])
    eos = engine.tokenizer.eos_token_id
    for prompt, output in zip(prompts, outputs, strict=True):
        if eos in tokens(output)[1:]:
            return prompt, tokens(output).index(eos)
    raise AssertionError("no prompt of this model ends by itself")


def test_the_model_may_end_by_itself(engines, world):
    engine = engines(max_num_seqs=24)
    prompt, place = ending_place(engine)
    expected = world.greedy(None, prompt, NUM_TOKENS)
    ended = answer(engine, greedy_params(ignore_eos=False), prompt).outputs[0]
    assert ended.token_ids == expected[: place + 1]
    assert (ended.finish_reason, ended.stop_reason) == ("stop", None)
    ignored = answer(engine, greedy_params(), prompt).outputs[0]
    assert ignored.token_ids == expected
    assert ignored.finish_reason == "length"


def test_min_tokens_bars_the_model_s_own_ending(engines, world):
    engine = engines(max_num_seqs=24)
    prompt, place = ending_place(engine)
    params = greedy_params(ignore_eos=False, min_tokens=place + 1)
    barred = answer(engine, params, prompt).outputs[0].token_ids
    expected = world.greedy(None, prompt, NUM_TOKENS)
    assert barred[:place] == expected[:place]
    assert barred[place] != expected[place]


@pytest.mark.parametrize("max_tokens", [1, 2, NUM_TOKENS])
def test_max_tokens_is_exact(engines, greedy, max_tokens):
    completion = answer(engines(), greedy_params(max_tokens)).outputs[0]
    assert completion.token_ids == greedy[:max_tokens]
    assert completion.finish_reason == "length"


@pytest.mark.parametrize("max_tokens", [None, 1000])
@pytest.mark.parametrize("length", [MAX_MODEL_LEN - 1, MAX_MODEL_LEN - 5])
def test_the_model_s_length_ends_what_nothing_else_ends(engines, world, length, max_tokens):
    prompt = [n % 90 for n in range(3, 3 + length)]
    completion = answer(engines(), greedy_params(max_tokens), prompt).outputs[0]
    assert completion.token_ids == world.greedy(None, prompt, MAX_MODEL_LEN - length)
    assert completion.finish_reason == "length"


def test_a_stop_string_ends_text_and_frees_the_sequence(engines, world, greedy):
    text = engines().tokenizer.decode(greedy)
    stop = text[3:5]
    completion = answer(engines(), greedy_params(stop=stop)).outputs[0]
    assert completion.text == text[: text.index(stop)]
    assert (completion.finish_reason, completion.stop_reason) == ("stop", stop)
