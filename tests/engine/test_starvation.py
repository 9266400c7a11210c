"""With one place, an adapter that is waited for gets it however busy the other one is kept."""

from __future__ import annotations

from itertools import count

from loramux import LLMEngine
from tests.engine.world import PROMPTS, World, check_idle, greedy_params, tokens

MAX_STEPS = 150


def steps_until_served(engine: LLMEngine, world: World) -> int | None:
    """Steps that one request for one adapter takes while requests for another never end."""
    busy, lonely = world.lora("attention"), world.lora("mlp")
    prompt = {"prompt_token_ids": PROMPTS[3]}
    names = count()
    served = None
    for _ in range(3):
        engine.add_request(f"busy {next(names)}", prompt, greedy_params(8), busy)
    while not engine.core.scheduler.running:
        engine.step()
    engine.add_request("lonely", prompt, greedy_params(4), lonely)
    for step in range(MAX_STEPS):
        engine.add_request(f"busy {next(names)}", prompt, greedy_params(8), busy)
        for output in engine.step():
            if output.finished and output.request_id == "lonely":
                assert tokens(output) == world.greedy("mlp", PROMPTS[3], 4)
                served = step
        if served is not None:
            break
    engine.abort_request(["lonely", *(f"busy {number}" for number in range(next(names)))])
    check_idle(engine)
    return served


def test_who_waits_too_long_is_served_after_those_who_run(engines, world):
    engine = engines(max_loras=1, lora_drain_wait_threshold=0.02)
    assert steps_until_served(engine, world) is not None


def test_without_that_bound_it_would_wait_for_ever(engines, world):
    """So that the test above measures the bound and not luck."""
    engine = engines(max_loras=1, lora_drain_wait_threshold=1e9)
    assert steps_until_served(engine, world) is None
