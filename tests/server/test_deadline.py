"""A search that takes too long ends, and leaves nothing behind."""

from __future__ import annotations

import asyncio

import pytest

from loramux.errors import AdapterUnavailableError
from loramux.lora.request import LoRARequest
from loramux.lora.resolve.catalog import AdapterCatalog, AdapterModule


class Found:
    resolver_name = "test"
    lora_request = LoRARequest("slow", 1, "/adapters/slow")


class Resolvers:
    async def resolve(self, base_model_name, lora_name, *, context=None):
        return Found()


def test_a_load_that_drips_on_is_given_up_and_may_be_tried_again():
    cancelled = []

    async def never_ends(request: LoRARequest) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(request.lora_name)
            raise

    async def ask_twice() -> AdapterCatalog:
        catalog = AdapterCatalog("base", ["base"], never_ends, Resolvers(), timeout=0.05)
        for _ in range(2):
            with pytest.raises(AdapterUnavailableError, match=r"not ready within 0\.05 s"):
                await catalog.find("slow")
        return catalog

    catalog = asyncio.run(ask_twice())
    assert cancelled == ["slow", "slow"]
    assert catalog.entries() == []


def test_registering_has_the_same_deadline():
    async def never_ends(request: LoRARequest) -> None:
        await asyncio.sleep(60)

    catalog = AdapterCatalog("base", ["base"], never_ends, None, timeout=0.05)
    with pytest.raises(AdapterUnavailableError, match=r"not ready within 0\.05 s"):
        asyncio.run(catalog.register(AdapterModule("slow", "/adapters/slow")))
    with pytest.raises(AdapterUnavailableError, match=r"not ready within 0\.05 s"):
        asyncio.run(catalog.register_all([AdapterModule("slow", "/adapters/slow")]))
    assert catalog.entries() == []
