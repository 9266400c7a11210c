"""Many callers on an event loop: the same answers, and nothing left of those who go away."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from statistics import median
from typing import Any

import pytest

from loramux import AsyncLLMEngine, EngineArgs, LoRARequest, RequestOutput, SamplingParams
from loramux.errors import AdapterNotFoundError, InvalidRequestError
from loramux.lora.adapter import Tier
from loramux.sampling_params import RequestOutputKind
from tests.engine.world import (
    BLOCK,
    MAX_MODEL_LEN,
    NUM_TOKENS,
    PROMPTS,
    RECIPES,
    check_idle,
    copy_adapter,
    greedy_params,
)

LONG_RUN = greedy_params(40)


@pytest.fixture(scope="module")
def engine(world) -> Iterator[AsyncLLMEngine]:
    args = EngineArgs(
        model=str(world.model),
        enable_lora=True,
        max_loras=3,
        max_lora_rank=128,
        block_size=BLOCK,
        max_model_len=MAX_MODEL_LEN,
        max_num_seqs=8,
        num_gpu_blocks_override=64,
    )
    engine = AsyncLLMEngine.from_engine_args(args)
    yield engine
    asyncio.run(engine.shutdown())


async def outputs_of(
    engine: AsyncLLMEngine,
    name: str,
    prompt: list[int],
    lora: LoRARequest | None = None,
    params: SamplingParams | None = None,
) -> list[RequestOutput]:
    stream = engine.generate({"prompt_token_ids": prompt}, params or greedy_params(), name, lora)
    return [output async for output in stream]


async def idle(engine: AsyncLLMEngine) -> None:
    """Until the engine has carried out what it was told; then nothing may be held."""
    for _ in range(12_000):
        if not (
            engine._engine.has_unfinished_requests()
            or engine._thread._commands
            or engine._thread._serving
        ):
            break
        await asyncio.sleep(0.005)
    check_idle(engine._engine)
    assert engine._thread._serving == {}
    assert engine._thread._mailboxes == {}


def run(engine: AsyncLLMEngine, main: Callable[[], Awaitable[Any]]) -> Any:
    """Run on a loop of its own, and look whether anything is left."""

    async def whole() -> Any:
        result = await asyncio.wait_for(main(), 240)
        await idle(engine)
        return result

    return asyncio.run(whole())


def test_concurrent_callers_get_what_the_reference_says(engine, world):
    plan = [(name, prompt) for prompt in PROMPTS[4:7] for name in (None, *RECIPES)]

    async def main() -> list[list[RequestOutput]]:
        return await asyncio.gather(
            *(
                outputs_of(engine, str(number), prompt, world.lora(name))
                for number, (name, prompt) in enumerate(plan)
            )
        )

    for (name, prompt), outputs in zip(plan, run(engine, main), strict=True):
        assert outputs[-1].outputs[0].token_ids == world.greedy(name, prompt, NUM_TOKENS)
        assert [output.finished for output in outputs] == [False] * (len(outputs) - 1) + [True]
        assert outputs[-1].lora_request == world.lora(name)


@pytest.mark.parametrize("kind", RequestOutputKind)
def test_each_kind_of_output(engine, world, kind):
    params = greedy_params(output_kind=kind)
    outputs = run(engine, lambda: outputs_of(engine, "x", PROMPTS[6], None, params))
    expected = world.greedy(None, PROMPTS[6], NUM_TOKENS)
    told = [output.outputs[0].token_ids for output in outputs]
    if kind is RequestOutputKind.DELTA:
        assert [token for one in told for token in one] == expected
        text = "".join(output.outputs[0].text for output in outputs)
        assert text == engine.tokenizer.decode(expected)
    elif kind is RequestOutputKind.CUMULATIVE:
        assert told == [expected[: len(one)] for one in told]
        assert told[-1] == expected
    else:
        assert told == [expected]


def test_texts_are_tokenized_on_many_threads_at_once(engine):
    """While the engine's own thread turns tokens into text with the same tokenizer."""
    texts = [f"{n} what is it {n}" for n in range(100)]

    async def answer(text: str) -> RequestOutput:
        stream = engine.generate(text, greedy_params(3), text)
        return [output async for output in stream][-1]

    async def main() -> list[RequestOutput]:
        return await asyncio.gather(*map(answer, texts))

    for text, output in zip(texts, run(engine, main), strict=True):
        assert output.prompt_token_ids == engine.tokenizer.encode(text)
        assert output.outputs[0].text == engine.tokenizer.decode(
            output.outputs[0].token_ids, skip_special_tokens=True
        )


def test_callers_on_several_loops_share_the_engine(engine, world):
    answers: dict[int, list[int]] = {}

    def call(number: int) -> None:
        outputs = asyncio.run(outputs_of(engine, f"loop {number}", PROMPTS[number]))
        answers[number] = outputs[-1].outputs[0].token_ids

    threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(240)
    assert answers == {n: world.greedy(None, PROMPTS[n], NUM_TOKENS) for n in range(4)}
    asyncio.run(idle(engine))


def test_closing_a_stream_frees_its_request(engine, world):
    async def main() -> None:
        for lora in (None, world.lora("mlp")):
            stream = engine.generate({"prompt_token_ids": PROMPTS[6]}, LONG_RUN, "x", lora)
            output = await anext(stream)
            assert not output.finished
            await stream.aclose()
            await idle(engine)

    run(engine, main)


def test_cancelling_a_caller_frees_its_request(engine):
    async def main() -> None:
        task = asyncio.create_task(outputs_of(engine, "x", PROMPTS[6], None, LONG_RUN))
        while not engine._engine.has_unfinished_requests():
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(engine, main)


def test_a_request_id_is_free_as_soon_as_its_stream_is_closed(engine, world):
    """And the new request hears nothing of the old one."""

    async def main() -> None:
        for _ in range(20):
            stream = engine.generate({"prompt_token_ids": PROMPTS[7]}, LONG_RUN, "same")
            await anext(stream)
            await stream.aclose()
            outputs = await outputs_of(engine, "same", PROMPTS[3], None, greedy_params(2))
            assert outputs[-1].outputs[0].token_ids == world.greedy(None, PROMPTS[3], 2)
            assert all(output.prompt_token_ids == PROMPTS[3] for output in outputs)

    run(engine, main)


def test_an_id_in_use_is_refused_and_its_owner_goes_on(engine, world):
    async def main() -> list[RequestOutput]:
        owner = asyncio.create_task(outputs_of(engine, "x", PROMPTS[6]))
        while "x" not in engine._thread._mailboxes:
            await asyncio.sleep(0)
        with pytest.raises(InvalidRequestError, match="already in use"):
            await outputs_of(engine, "x", PROMPTS[3])
        return await owner

    outputs = run(engine, main)
    assert outputs[-1].outputs[0].token_ids == world.greedy(None, PROMPTS[6], NUM_TOKENS)


def test_abort_ends_a_stream_with_what_it_has(engine):
    async def main() -> list[RequestOutput]:
        outputs = []
        async for output in engine.generate({"prompt_token_ids": PROMPTS[6]}, LONG_RUN, "x"):
            outputs.append(output)
            if len(outputs) == 2:
                await engine.abort("x")
        await engine.abort("unknown")
        return outputs

    outputs = run(engine, main)
    assert outputs[-1].finished
    assert outputs[-1].outputs[0].finish_reason == "abort"
    assert 2 <= len(outputs[-1].outputs[0].token_ids) < 40


class SlowReads:
    """Holds the reading of adapters back, on the threads it belongs to."""

    def __init__(self, engine: AsyncLLMEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gate = threading.Event()
        self.count = 0
        self._read = engine._materializer._read
        monkeypatch.setattr(engine._materializer, "_read", self)

    def __call__(self, source: object) -> object:
        self.count += 1
        assert self.gate.wait(240)
        return self._read(source)


factors = count(1)


@pytest.fixture
def unread(world, tmp_path) -> LoRARequest:
    """An adapter nobody has asked for yet."""
    path = copy_adapter(world.adapters["mlp"], tmp_path / "unread", 1 + next(factors) / 64)
    return LoRARequest(tmp_path.name, 1, str(path))


def test_a_request_aborted_while_its_adapter_is_read_never_runs(engine, unread, monkeypatch):
    reads = SlowReads(engine, monkeypatch)

    async def main() -> list[RequestOutput]:
        task = asyncio.create_task(outputs_of(engine, "x", PROMPTS[6], unread))
        while not reads.count:
            await asyncio.sleep(0.001)
        await engine.abort("x")
        await asyncio.sleep(0.01)
        reads.gate.set()
        return await task

    outputs = run(engine, main)
    assert [output.outputs[0].finish_reason for output in outputs] == ["abort"]


def test_callers_who_leave_while_an_adapter_is_read_leave_nothing(engine, unread, monkeypatch):
    reads = SlowReads(engine, monkeypatch)

    async def main() -> None:
        tasks = [
            asyncio.create_task(outputs_of(engine, str(n), PROMPTS[6], unread)) for n in range(5)
        ]
        while not reads.count:
            await asyncio.sleep(0.001)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert engine._materializer.num_under_way == 0
        reads.gate.set()

    run(engine, main)
    assert reads.count == 1
    assert unread.lora_name not in [info.name for info in engine.adapter_infos()]


def test_fifty_callers_read_a_new_adapter_once(engine, unread, monkeypatch):
    reads = SlowReads(engine, monkeypatch)
    reads.gate.set()

    async def main() -> None:
        params = greedy_params(2)
        calls = [outputs_of(engine, str(n), PROMPTS[n % 4], unread, params) for n in range(40)]
        loads = [engine.load_lora(unread) for _ in range(10)]
        await asyncio.gather(*calls, *loads)

    run(engine, main)
    assert reads.count == 1


def test_others_stream_and_the_loop_runs_while_an_adapter_is_read(engine, unread, monkeypatch):
    """The loop's usual pause is a small part of the time that one request takes."""
    reads = SlowReads(engine, monkeypatch)
    pauses = []

    async def watch() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            pauses.append(time.perf_counter() - began)

    async def main() -> float:
        loading = asyncio.create_task(outputs_of(engine, "x", PROMPTS[6], unread, LONG_RUN))
        watching = asyncio.create_task(watch())
        while not reads.count:
            await asyncio.sleep(0.001)
        began = time.perf_counter()
        for number in range(20):
            outputs = await outputs_of(engine, f"base {number}", PROMPTS[3])
            assert outputs[-1].finished
        took = time.perf_counter() - began
        assert not loading.done()
        reads.gate.set()
        await loading
        watching.cancel()
        return took

    took = run(engine, main)
    assert len(pauses) > 40
    assert median(pauses) < took / 40


def test_a_refused_adapter_is_raised_in_its_caller(engine, world, tmp_path):
    lost = LoRARequest("lost", 1, str(tmp_path / "nowhere"))

    async def main() -> list[Any]:
        return await asyncio.gather(
            outputs_of(engine, "a", PROMPTS[6], lost),
            outputs_of(engine, "b", PROMPTS[6]),
            engine.load_lora(lost),
            return_exceptions=True,
        )

    refused, outputs, not_loaded = run(engine, main)
    assert isinstance(refused, AdapterNotFoundError)
    assert isinstance(not_loaded, AdapterNotFoundError)
    assert outputs[-1].outputs[0].token_ids == world.greedy(None, PROMPTS[6], NUM_TOKENS)


def test_a_bad_prompt_is_raised_in_its_caller(engine):
    async def main() -> None:
        with pytest.raises(InvalidRequestError, match="empty"):
            await outputs_of(engine, "x", [])

    run(engine, main)


def test_a_loaded_adapter_is_told_of_and_can_be_unloaded(engine, unread):
    async def main() -> None:
        info = await engine.load_lora(unread)
        assert (info.name, info.path, info.rank) == (unread.lora_name, unread.lora_path, 7)
        assert info.tier is Tier.HOST
        await outputs_of(engine, "x", PROMPTS[6], unread)
        assert engine.adapter_infos()[-1].tier is Tier.DEVICE
        await engine.unload_lora(unread.lora_name)
        await idle(engine)
        async with asyncio.timeout(60):
            while info.digest in engine._lora.pool.resident_digests:
                await asyncio.sleep(0.01)
        assert info.digest not in engine._materializer.host_cache

    run(engine, main)
