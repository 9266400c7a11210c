"""How the asynchronous engine ends: everybody who waits is told, nobody waits for ever."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import torch

from loramux import AsyncLLMEngine, EngineArgs, LoRARequest
from loramux.errors import EngineDeadError, LoramuxError
from tests.engine.world import BLOCK, MAX_MODEL_LEN, PROMPTS, World, greedy_params

LONG_RUN = greedy_params(40)
PROMPT = {"prompt_token_ids": PROMPTS[6]}


def with_engine(world: World, main: Callable[[AsyncLLMEngine], Awaitable[Any]]) -> Any:
    """Run ``main`` on an engine of its own, which it may end itself."""
    args = EngineArgs(
        model=str(world.model),
        enable_lora=True,
        max_lora_rank=128,
        block_size=BLOCK,
        max_model_len=MAX_MODEL_LEN,
        max_num_seqs=4,
        num_gpu_blocks_override=64,
        model_impl="transformers",  # its modules call the hooks by which steps are made to fail
    )
    engine = AsyncLLMEngine.from_engine_args(args)

    async def whole() -> Any:
        try:
            return await asyncio.wait_for(main(engine), 240)
        finally:
            await engine.shutdown()

    return asyncio.run(whole())


async def consume(engine: AsyncLLMEngine, name: str, lora: LoRARequest | None = None) -> list[int]:
    outputs = [output async for output in engine.generate(PROMPT, LONG_RUN, name, lora)]
    return outputs[-1].outputs[0].token_ids


async def running(engine: AsyncLLMEngine, count: int) -> list[asyncio.Task]:
    tasks = [asyncio.create_task(consume(engine, str(number))) for number in range(count)]
    while len(engine._thread._serving) < count:
        await asyncio.sleep(0.001)
    return tasks


def test_a_shutdown_ends_who_runs_and_who_waits(world):
    async def main(engine: AsyncLLMEngine) -> list[Any]:
        tasks = await running(engine, 8)
        await engine.shutdown()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        with pytest.raises(EngineDeadError, match="shut"):
            await consume(engine, "late")
        with pytest.raises(EngineDeadError):
            await engine.check_health()
        with pytest.raises(EngineDeadError):
            await engine.load_lora(world.lora("mlp"))
        return outcomes

    outcomes = with_engine(world, main)
    assert {type(outcome) for outcome in outcomes} == {EngineDeadError}


def test_a_shutdown_ends_who_waits_for_an_adapter(world, monkeypatch):
    gate, begun = threading.Event(), threading.Event()

    async def main(engine: AsyncLLMEngine) -> Any:
        read = engine._materializer._read

        def slow(source: object) -> object:
            begun.set()
            assert gate.wait(240)
            return read(source)

        monkeypatch.setattr(engine._materializer, "_read", slow)
        task = asyncio.create_task(consume(engine, "x", world.lora("mlp")))
        await asyncio.to_thread(begun.wait, 240)
        await engine.shutdown()
        gate.set()
        return (await asyncio.gather(task, return_exceptions=True))[0]

    assert isinstance(with_engine(world, main), EngineDeadError)


def test_a_shutdown_ends_who_waits_for_a_read_that_never_began(world, monkeypatch):
    gate = threading.Event()

    async def main(engine: AsyncLLMEngine) -> list[Any]:
        monkeypatch.setattr(engine._materializer, "_read", lambda source: gate.wait(240))
        names = list(world.adapters)
        loras = [
            LoRARequest(f"{name} {n}", 1, str(world.adapters[name]), f"base {n}")
            for n in range(3)
            for name in names
        ]
        tasks = [asyncio.create_task(consume(engine, lora.lora_name, lora)) for lora in loras]
        while engine._materializer.num_under_way < len(loras):
            await asyncio.sleep(0.001)
        await engine.shutdown()
        waiting = tasks[-1]
        outcome = (await asyncio.gather(waiting, return_exceptions=True))[0]
        for task in tasks:
            task.cancel()
        gate.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        return outcome

    assert isinstance(with_engine(world, main), EngineDeadError)


def test_a_broken_device_ends_the_engine_for_everybody(world):
    async def main(engine: AsyncLLMEngine) -> list[Any]:
        def broken(*_: object) -> None:
            raise torch.AcceleratorError("CUDA error: an illegal memory access")

        tasks = await running(engine, 3)
        engine._engine.core.runner._model.register_forward_pre_hook(broken)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        with pytest.raises(EngineDeadError, match="illegal memory access"):
            await engine.check_health()
        with pytest.raises(EngineDeadError, match="illegal memory access"):
            await consume(engine, "late")
        return outcomes

    for outcome in with_engine(world, main):
        assert isinstance(outcome, EngineDeadError)
        assert "illegal memory access" in str(outcome)


def test_a_failed_step_ends_no_engine(world):
    async def main(engine: AsyncLLMEngine) -> list[Any]:
        def failing(*_: object) -> None:
            handle.remove()
            raise RuntimeError("a kernel went wrong")

        tasks = await running(engine, 2)
        handle = engine._engine.core.runner._model.register_forward_pre_hook(failing)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        await engine.check_health()
        return [*outcomes, await consume(engine, "after")]

    *failed, after = with_engine(world, main)
    assert [type(outcome) for outcome in failed] == [LoramuxError, LoramuxError]
    assert len(after) == 40


def test_an_engine_may_be_shut_down_twice(world):
    async def main(engine: AsyncLLMEngine) -> None:
        await engine.shutdown()

    with_engine(world, main)


def test_no_thread_outlives_the_engine(world):
    before = set(threading.enumerate())

    async def main(engine: AsyncLLMEngine) -> None:
        await asyncio.gather(consume(engine, "a", world.lora("mlp")), consume(engine, "b"))

    with_engine(world, main)
    left = [t for t in set(threading.enumerate()) - before if t.name.startswith("loramux")]
    for thread in left:
        thread.join(60)
    assert not any(thread.is_alive() for thread in left)


def test_a_loop_that_was_closed_in_the_middle_ends_no_other(world):
    async def main(engine: AsyncLLMEngine) -> list[int]:
        def call_and_vanish() -> None:
            loop = asyncio.new_event_loop()
            stream = engine.generate(PROMPT, LONG_RUN, "vanished")
            loop.run_until_complete(anext(stream))
            loop.close()

        other = asyncio.create_task(consume(engine, "stays"))
        await asyncio.to_thread(call_and_vanish)
        await engine.check_health()
        return await other

    assert len(with_engine(world, main)) == 40
