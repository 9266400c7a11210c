"""Outputs of one or several prompts as one stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import NamedTuple

from loramux.outputs import RequestOutput


class PromptOutput(NamedTuple):
    """An output, and which prompt of the request it belongs to."""

    prompt_index: int
    output: RequestOutput


OutputStream = AsyncGenerator[PromptOutput, None]


async def merge(sources: Sequence[AsyncGenerator[RequestOutput, None]]) -> OutputStream:
    """Outputs of all prompts as they come; closing it closes every source.

    Raises:
        Exception: the first error of any prompt, whether raised or carried by its output.
    """
    pending = {_next(source): index for index, source in enumerate(sources)}
    try:
        while pending:
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                output = task.result()
                index = pending.pop(task)
                if output is None:
                    continue
                if output.error is not None:
                    raise output.error
                pending[_next(sources[index])] = index
                yield PromptOutput(index, output)
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for source in sources:
            await source.aclose()


async def single(source: AsyncGenerator[RequestOutput, None]) -> OutputStream:
    """:func:`merge` of one, without a task for each output."""
    try:
        async for output in source:
            if output.error is not None:
                raise output.error
            yield PromptOutput(0, output)
    finally:
        await source.aclose()


class StartedStream:
    """A stream whose first output has arrived, so that what was wrong with it is known."""

    def __init__(self, first: PromptOutput, rest: OutputStream) -> None:
        self.first = first
        self.rest = rest

    @classmethod
    async def start(cls, outputs: OutputStream) -> StartedStream:
        """Wait for the first output; closes ``outputs`` if there is none."""
        try:
            return cls(await anext(outputs), outputs)
        except BaseException:
            await outputs.aclose()
            raise

    async def aclose(self) -> None:
        """Free what the engine still has of it."""
        await self.rest.aclose()


def _next(source: AsyncGenerator[RequestOutput, None]) -> asyncio.Task[RequestOutput | None]:
    async def step() -> RequestOutput | None:
        return await anext(source, None)

    return asyncio.create_task(step())
