"""Asking one resolver as a server asks it, and bringing what it found."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from tempfile import mkdtemp

from loramux.lora.request import LoRARequest
from loramux.lora.resolve.registry import MAX_NAME_LENGTH
from loramux.lora.resolver import LoRAResolver, NamedResolver, ResolveContext

FILES = ("adapter_config.json", "adapter_model.safetensors")


class Asker:
    """Asks a resolver, every time in the same event loop; close it when done.

    Args:
        resolver: an instance of a subclass of LoRAResolver.
        base_model_name: handed to it with every name.
        seconds: how long one answer may take.
    """

    def __init__(self, resolver: LoRAResolver, base_model_name: str, seconds: float) -> None:
        self._named = NamedResolver.of("resolver under test", resolver)
        self._base_model_name = base_model_name
        self._seconds = seconds
        self._runner = asyncio.Runner()

    def __call__(self, lora_name: str) -> LoRARequest | None:
        """Ask for one name.

        Raises:
            TookTooLong: if the answer does.
            TypeError: if it is neither a LoRARequest nor None.
            Exception: whatever the resolver raises.
        """
        return self._runner.run(self._answer(lora_name))

    def for_all(self, lora_names: Iterable[str]) -> list[LoRARequest | None]:
        """Ask for several names at the same moment; raises as for one."""

        async def ask() -> list[LoRARequest | None]:
            return await asyncio.gather(*map(self._answer, lora_names))

        return self._runner.run(ask())

    def and_cancel(self, lora_name: str, after: float) -> list[LoRARequest | None]:
        """Ask for a name, and cancel that some seconds later.

        Returns:
            Nothing if the resolver stopped, or the one answer that it gave before.

        Raises:
            TookTooLong: if it did not stop.
            Exception: what the resolver raised.
        """

        async def ask_and_leave() -> list[LoRARequest | None]:
            task = asyncio.create_task(self._answer(lora_name))
            await asyncio.sleep(after)
            task.cancel()
            await asyncio.wait({task}, timeout=self._seconds)
            if not task.done():
                raise TookTooLong(f"it goes on {self._seconds} s after it was cancelled")
            return [] if task.cancelled() else [task.result()]

        return self._runner.run(ask_and_leave())

    def close(self) -> None:
        """End the event loop."""
        self._runner.close()

    async def _answer(self, lora_name: str) -> LoRARequest | None:
        try:
            async with asyncio.timeout(self._seconds) as limit:
                answer = await self._named.ask(self._base_model_name, lora_name, ResolveContext())
        except TimeoutError:
            if not limit.expired():
                raise
        if limit.expired():  # also where the resolver caught its cancellation, and answered
            raise TookTooLong(f"there is no answer after {self._seconds} s")
        return answer


def reaches_resolvers(lora_name: str) -> bool:
    """Whether a server asks resolvers for this name at all, or knows that there is none."""
    return 0 < len(lora_name) <= MAX_NAME_LENGTH and lora_name.isprintable()


class TookTooLong(AssertionError):
    """A resolver did not do in time what it was asked."""


def bring(request: LoRARequest, scratch: Path) -> Path:
    """The directory with an adapter's files: on this machine already, or fetched now.

    Args:
        request: what a resolver found.
        scratch: a directory in which a source may fill a new one.

    Raises:
        AdapterError: if it is not there, or its source does not bring it.
    """
    from loramux.lora.fetch.locate import locate
    from loramux.lora.fetch.origin import LocalCheckpoint

    origin = locate(request)
    if isinstance(origin, LocalCheckpoint):
        return origin.directory
    return origin.source.fetch(Path(mkdtemp(dir=scratch)), lambda done, total: None)


def content(directory: Path) -> dict[str, bytes]:
    """The bytes of an adapter's two files."""
    return {name: (directory / name).read_bytes() for name in FILES}
