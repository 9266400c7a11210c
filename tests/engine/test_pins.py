"""Adapters that are brought to the device early, or kept there whatever others ask for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future

import pytest
import torch

from loramux import AsyncLLMEngine, EngineArgs, LoRARequest
from loramux.errors import (
    AdapterNotFoundError,
    AdapterUnavailableError,
    EngineDeadError,
    InvalidRequestError,
)
from loramux.lora.adapter import Adapter, AdapterInfo, Tier
from loramux.lora.device.store import StoreBounds
from tests.engine.world import (
    BLOCK,
    MAX_MODEL_LEN,
    NUM_TOKENS,
    PROMPTS,
    copy_adapter,
    greedy_params,
)


@pytest.fixture
def engine(world) -> Iterator[AsyncLLMEngine]:
    args = EngineArgs(
        model=str(world.model), enable_lora=True, max_loras=1, max_lora_rank=128,
        block_size=BLOCK, max_model_len=MAX_MODEL_LEN, num_gpu_blocks_override=64,
    )  # fmt: skip
    engine = AsyncLLMEngine.from_engine_args(args)
    yield engine
    asyncio.run(engine.shutdown())


def info_of(engine: AsyncLLMEngine, lora: LoRARequest) -> AdapterInfo:
    (info,) = [info for info in engine.adapter_infos() if info.name == lora.name]
    return info


async def tokens(engine: AsyncLLMEngine, lora: LoRARequest, name: str = "r") -> list[int]:
    stream = engine.generate({"prompt_token_ids": PROMPTS[0]}, greedy_params(), name, lora)
    return [output async for output in stream][-1].outputs[0].token_ids


def test_prefetch_places_and_pin_keeps(engine, world):
    """There is room for two adapters on the device."""
    kept = world.lora("attention")
    others = [world.lora(name) for name in ("mlp", "wide", "narrow")]

    async def run() -> None:
        await engine.prefetch_lora(kept)
        assert info_of(engine, kept).tier is Tier.DEVICE
        for other in others[:2]:
            await engine.prefetch_lora(other)
        assert info_of(engine, kept).tier is not Tier.DEVICE
        await engine.pin_lora(kept)
        for other in others:
            await engine.prefetch_lora(other)
        info = info_of(engine, kept)
        assert (info.tier, info.is_pinned, info.references) == (Tier.DEVICE, True, 0)
        assert await tokens(engine, kept) == world.greedy("attention", PROMPTS[0], NUM_TOKENS)
        with pytest.raises(InvalidRequestError, match=r"--max-loras \(1\) allows no more; unpin"):
            await engine.pin_lora(others[0])
        engine._residency.max_loras = 4
        with pytest.raises(InvalidRequestError, match="1 of the 2 adapters that the device has"):
            await engine.pin_lora(others[0])
        assert engine.unpin_lora(kept.name)
        assert not engine.unpin_lora(kept.name)
        for other in others:
            await engine.prefetch_lora(other)
        info = info_of(engine, kept)
        assert (info.tier is Tier.DEVICE, info.is_pinned) == (False, False)

    asyncio.run(run())


def test_a_pin_follows_the_bytes_and_ends_when_they_are_unloaded(engine, world, tmp_path):
    path = copy_adapter(world.adapters["attention"], tmp_path / "mine")
    mine = LoRARequest("mine", 1, str(path))

    async def run() -> None:
        await engine.pin_lora(mine)
        before = info_of(engine, mine).digest
        copy_adapter(world.adapters["mlp"], path)
        await engine.load_lora(LoRARequest("mine", 1, str(path), load_inplace=True))
        await engine.prefetch_lora(mine)
        after = info_of(engine, mine)
        assert after.digest != before
        assert (after.tier, after.is_pinned) == (Tier.DEVICE, True)
        await engine.unload_lora("mine")
        assert not engine.unpin_lora("mine")
        await engine.pin_lora(world.lora("wide"))

    asyncio.run(run())


def test_what_cannot_be_placed_is_not_pinned(engine, world, tmp_path, monkeypatch):
    absent = LoRARequest("absent", 1, str(tmp_path / "absent"))

    async def run() -> None:
        with pytest.raises(AdapterNotFoundError):
            await engine.pin_lora(absent)
        wide = world.lora("wide")
        adapter = await engine._load(wide)
        monkeypatch.setenv("LORAMUX_LORA_RESOLVE_TIMEOUT", "0.3")
        monkeypatch.setattr(engine._lora.pool.store, "reserve", lambda resident: False)
        pins = [engine._residency.pin(wide, adapter) for _ in range(1200)]
        for error in await asyncio.gather(*pins, return_exceptions=True):
            assert isinstance(error, AdapterUnavailableError)
            assert "no room" in str(error)
        assert not engine.unpin_lora("wide")
        monkeypatch.undo()
        await engine.pin_lora(wide)

    asyncio.run(run())


def test_a_pin_that_is_given_up_leaves_the_others_of_its_name(engine, world, monkeypatch):
    wide, pool = world.lora("wide"), engine._lora.pool
    ordered = []

    def order(adapter: Adapter) -> Future[None]:
        ordered.append(Future())
        return ordered[-1]

    monkeypatch.setattr(pool, "order", order)

    async def run() -> None:
        pins = []
        for count in (1, 2):
            pins.append(asyncio.create_task(engine.pin_lora(wide)))
            while len(ordered) < count:
                await asyncio.sleep(0.001)
        first, second = pins
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        ordered[1].set_result(None)
        await second
        assert info_of(engine, wide).is_pinned

    asyncio.run(run())


def test_pins_may_go_while_another_thread_reads_what_there_is(engine, world):
    class Fading(dict):
        def __contains__(self, name: object) -> bool:
            found = super().__contains__(name)
            self.pop(name, None)
            return found

    async def run() -> None:
        await engine.pin_lora(world.lora("wide"))
        engine._residency._pins = Fading(engine._residency._pins)
        assert [info.name for info in engine.adapter_infos()] == ["wide"]

    asyncio.run(run())


def test_who_waits_for_room_is_told_of_the_engine_s_end(engine, world, monkeypatch):
    monkeypatch.setattr(engine._lora.pool.store, "reserve", lambda resident: False)
    wide = world.lora("wide")

    async def run() -> None:
        waiting = asyncio.create_task(engine.prefetch_lora(wide))
        adapter = await engine._load(wide)
        await asyncio.sleep(0.1)
        await engine.shutdown()
        with pytest.raises(EngineDeadError):
            await asyncio.wait_for(waiting, 60)
        with pytest.raises(EngineDeadError):
            await asyncio.wait_for(engine._residency.place(wide.name, adapter), 60)

    asyncio.run(run())


@pytest.mark.parametrize("option", ["LORAMUX_HOST_CACHE_BYTES", "--lora-memory-bytes"])
def test_pins_leave_half_of_the_memory_to_others(engine, world, tmp_path, monkeypatch, option):
    path = copy_adapter(world.adapters["narrow"], tmp_path / "grows")
    grows = LoRARequest("grows", 1, str(path))

    async def run() -> None:
        wide = await engine.load_lora(world.lora("wide"))
        if option == "LORAMUX_HOST_CACHE_BYTES":
            engine._materializer.host_cache.max_bytes = 2 * wide.num_bytes - 1
        else:
            bounds = StoreBounds(2, 2 * wide.num_bytes - 1, torch.float32.itemsize)
            monkeypatch.setattr(engine._lora.pool.store, "bounds", bounds)
        with pytest.raises(InvalidRequestError, match=f"50% .* raise {option}"):
            await engine.pin_lora(world.lora("wide"))
        assert not engine.unpin_lora("wide")
        await engine.pin_lora(grows)
        copy_adapter(world.adapters["wide"], path)  # what is pinned may not grow beyond it either
        await engine.load_lora(LoRARequest("grows", 1, str(path), load_inplace=True))
        assert not engine.unpin_lora("grows")

    asyncio.run(run())
