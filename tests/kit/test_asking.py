"""How the contract asks: an answer that comes too late is none, whatever it says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from loramux import LoRARequest, LoRAResolver
from loramux.testing.asking import Asker, TookTooLong


class Slow(LoRAResolver):
    """Takes ever so long."""

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        await asyncio.sleep(60)
        return None


class SwallowsItsCancellation(Slow):
    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        try:
            return await super().resolve_lora(base_model_name, lora_name)
        except asyncio.CancelledError:
            return None


class GivesUp(LoRAResolver):
    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        raise TimeoutError("the store's own")


@pytest.fixture
def asker(request: pytest.FixtureRequest) -> Iterator[Asker]:
    asker = Asker(request.param(), "base", seconds=0.05)
    yield asker
    asker.close()


@pytest.mark.parametrize("asker", [Slow, SwallowsItsCancellation], indirect=True)
def test_too_late_is_no_answer(asker: Asker) -> None:
    with pytest.raises(TookTooLong, match=r"no answer after 0\.05 s"):
        asker("name")


@pytest.mark.parametrize("asker", [GivesUp], indirect=True)
def test_a_timeout_of_the_resolvers_own_is_its_own(asker: Asker) -> None:
    with pytest.raises(TimeoutError, match="the store's own"):
        asker("name")
