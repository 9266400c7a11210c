"""Very many names that nobody has, asked of the resolvers themselves."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from loramux.errors import ModelNotFoundError
from loramux.lora.resolve.registry import ResolverChain
from loramux.lora.resolver import NamedResolver, ResolverRegistry
from loramux_resolvers.filesystem import FilesystemLoRAResolver
from tests.soak.watch import Sample

STAGES = 5

FIRST = 5000
"""Names after which the tables are full."""


def megabytes_while_asking(directory: Path, number: int) -> Iterator[float]:
    """Memory of this process before, and after each fifth of ``number`` unknown names."""
    chain = ResolverChain(
        [NamedResolver.of("files", FilesystemLoRAResolver(directory))],
        ResolverRegistry(),
        negative_ttl=3600,
    )
    with asyncio.Runner() as runner:
        runner.run(_ask(chain, range(5000)))  # until the tables are full
        for stage in range(STAGES + 1):
            gc.collect()
            yield Sample.of(os.getpid()).megabytes
            if stage < STAGES:
                first = FIRST + stage * number // STAGES
                runner.run(_ask(chain, range(first, first + number // STAGES)))
    chain.close()


async def _ask(chain: ResolverChain, numbers: range) -> None:
    for number in numbers:
        with suppress(ModelNotFoundError):
            await chain.resolve("base", f"nobody/has/heard/of/{number}")
            raise AssertionError(f"name {number} was found")
