"""The base model computes the same bits whether or not adapters are served beside it."""

from __future__ import annotations

import pytest

from loramux import LLMEngine, LoRARequest, RequestOutput
from tests.engine.world import PROMPTS, Job, greedy_params, run, run_together

PARAMS = greedy_params(8, logprobs=-1)


def bits(output: RequestOutput) -> list[dict[int, float]]:
    """Every log probability of the vocabulary at every step."""
    assert output.error is None
    return [
        {token_id: entry.logprob for token_id, entry in position.items()}
        for position in output.outputs[0].logprobs
    ]


def base_run(engine: LLMEngine) -> list[list[dict[int, float]]]:
    # Without the cache of prefixes the second run of a prompt has the same shapes as the first.
    return [bits(output) for output in run(engine, [Job(p, None, PARAMS) for p in PROMPTS])]


def test_an_engine_with_lora_computes_what_one_without_computes(engines):
    plain = base_run(engines(enable_lora=False, enable_prefix_caching=False))
    assert len(plain[0][0]) == 96, "the whole vocabulary is compared"
    assert base_run(engines(enable_prefix_caching=False)) == plain


def test_adapters_that_were_served_before_leave_no_trace(engines, world):
    engine = engines(enable_prefix_caching=False)
    before = base_run(engine)
    run(
        engine,
        [Job(p, world.lora(n), PARAMS) for p, n in zip(PROMPTS, world.adapters, strict=False)],
    )
    assert base_run(engine) == before


@pytest.mark.parametrize("names", [["attention"], ["wide"], ["embeddings", "mlp", "patterned"]])
@pytest.mark.parametrize("prompts", [[PROMPTS[3]] * 3, PROMPTS[3:6]], ids=["equal", "unequal"])
def test_rows_beside_adapters_keep_every_bit(engines, world, names, prompts):
    """The same batches twice; only the neighbours' adapters differ."""
    engine = engines(enable_prefix_caching=False, max_num_batched_tokens=64)

    def all_bits(loras: list[LoRARequest | None]) -> list[list[dict[int, float]]]:
        jobs = [Job(prompt, lora, PARAMS) for prompt, lora in zip(prompts, loras, strict=False)]
        jobs += [Job(prompt, None, PARAMS) for prompt in PROMPTS[3:7]]
        return [bits(output) for output in run_together(engine, jobs)]

    alone = all_bits([None] * len(names))
    beside = all_bits([world.lora(name) for name in names])
    assert beside[len(names) :] == alone[len(names) :]
    assert beside[: len(names)] != alone[: len(names)]
