"""Prefixes that were computed before are found again, and only where they are the same."""

from __future__ import annotations

import pytest

from loramux import LLMEngine, LoRARequest, RequestOutput
from loramux.errors import InvalidRequestError
from tests.engine.world import (
    BLOCK,
    NUM_TOKENS,
    PROMPTS,
    Job,
    copy_adapter,
    greedy_params,
    run,
    tokens,
)

LONG = PROMPTS[7]
FULL = (len(LONG) - 1) // BLOCK * BLOCK
"""Tokens of the long prompt that a second request finds: all full blocks but the last token's."""


def one(engine: LLMEngine, lora: LoRARequest | None, prompt: list[int] = LONG) -> RequestOutput:
    return run(engine, [Job(prompt, lora)])[0]


@pytest.fixture
def engine(engines) -> LLMEngine:
    """An engine that has computed nothing yet."""
    engine = engines()
    engine.core.cache.pool.forget_cached()
    return engine


@pytest.mark.parametrize("name", [None, "attention", "wide"])
def test_a_second_request_finds_the_first_one_s_prompt(engine, world, name):
    first, second = (one(engine, world.lora(name)) for _ in range(2))
    assert (first.num_cached_tokens, second.num_cached_tokens) == (0, FULL)
    assert tokens(first) == tokens(second) == world.greedy(name, LONG, NUM_TOKENS)


def test_a_longer_prompt_finds_the_beginning_and_the_answer(engine, world):
    answer = tokens(one(engine, None))[:9]
    longer = [*LONG, *answer, 3, 4]
    output = one(engine, None, longer)
    assert output.num_cached_tokens == (len(LONG) + 9) // BLOCK * BLOCK
    assert tokens(output) == world.greedy(None, longer, NUM_TOKENS)


@pytest.mark.parametrize("theirs", [None, "attention"])
@pytest.mark.parametrize("mine", [None, "attention", "mlp"])
def test_nobody_finds_what_other_weights_computed(engine, world, mine, theirs):
    one(engine, world.lora(theirs))
    output = one(engine, world.lora(mine))
    assert output.num_cached_tokens == (FULL if mine == theirs else 0)
    assert tokens(output) == world.greedy(mine, LONG, NUM_TOKENS)


def test_requests_of_one_batch_share_as_soon_as_there_is_something(engine, world):
    jobs = [Job(LONG, world.lora("mlp"), at=at) for at in (0, 40, 44)]
    outputs = run(engine, jobs)
    assert [output.num_cached_tokens for output in outputs] == [0, FULL, FULL]
    assert {tuple(tokens(output)) for output in outputs} == {
        tuple(world.greedy("mlp", LONG, NUM_TOKENS))
    }


def test_new_bytes_under_an_old_path_find_nothing_stale(engine, world, tmp_path):
    path = copy_adapter(world.adapters["attention"], tmp_path / "mine")
    lora = LoRARequest("mine", 1, str(path))
    old = one(engine, lora)
    assert tokens(old) == world.greedy("attention", LONG, NUM_TOKENS)
    copy_adapter(world.adapters["mlp"], path)
    new = one(engine, lora)
    assert new.num_cached_tokens == 0
    assert new.adapter_digest != old.adapter_digest
    assert tokens(new) == world.greedy("mlp", LONG, NUM_TOKENS)
    copy_adapter(world.adapters["attention"], path)
    again = one(engine, lora)
    assert again.num_cached_tokens == FULL, "the old bytes are the old adapter"
    assert tokens(again) == tokens(old)


def test_equal_bytes_under_two_names_share(engine, world, tmp_path):
    copy = copy_adapter(world.adapters["attention"], tmp_path / "copy")
    first = one(engine, world.lora("attention"))
    second = one(engine, LoRARequest("copy", 2, str(copy)))
    assert second.num_cached_tokens == FULL
    assert second.adapter_digest == first.adapter_digest
    assert second.lora_request.lora_name == "copy"
    assert tokens(second) == tokens(first)


def test_without_the_cache_everything_is_the_same_but_nothing_is_found(engines, world):
    engine = engines(enable_prefix_caching=False)
    for _ in range(2):
        output = one(engine, world.lora("mlp"))
        assert output.num_cached_tokens == 0
        assert tokens(output) == world.greedy("mlp", LONG, NUM_TOKENS)


def test_completions_of_one_request_count_the_prompt_once(engine):
    params = greedy_params(4, temperature=1.0, n=3, seed=1)
    output = run(engine, [Job(LONG, None, params)])[0]
    assert output.num_cached_tokens == 0
    assert len(output.outputs) == 3


def test_a_salt_keeps_a_prompt_to_those_who_know_it(engine, world):
    def cached(**more: str) -> int:
        prompt = {"prompt_token_ids": LONG, **more}
        engine.add_request("salted", prompt, greedy_params(), world.lora("attention"))
        while not (done := [output for output in engine.step() if output.finished]):
            pass
        assert tokens(done[0]) == world.greedy("attention", LONG, NUM_TOKENS)
        return done[0].num_cached_tokens

    assert cached(cache_salt="mine") == 0
    assert [cached(), cached(cache_salt="theirs"), cached(cache_salt="mine")] == [0, 0, FULL]
    with pytest.raises(InvalidRequestError, match="cache_salt"):
        cached(cache_salt=3)
