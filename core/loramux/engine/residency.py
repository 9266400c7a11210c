"""Where an engine's adapters are: loaded, brought to the device early, or kept there."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from loramux.errors import AdapterUnavailableError, EngineDeadError, InvalidRequestError
from loramux.lora.adapter import Adapter, AdapterInfo
from loramux.lora.device.pool import DevicePool
from loramux.lora.fetch.materializer import Materializer
from loramux.lora.fetch.shared_work import Abandoned
from loramux.lora.request import LoRARequest
from loramux.lora.resolve.deadline import resolve_timeout


@dataclass
class Residency:
    """Owner of pins, by the name they were asked for under; used on the callers' event loops.

    A pinned adapter is never evicted, neither from the device nor from the host. When new bytes
    are served under its name from the same path, the pin goes over to them.

    Args:
        max_pinned: so that there is always room for an adapter that is not pinned.
    """

    materializer: Materializer
    pool: DevicePool
    max_pinned: int
    _pins: dict[str, tuple[str, Adapter]] = field(default_factory=dict)
    """Path and adapter by name."""

    async def load(self, request: LoRARequest) -> Adapter:
        """Read an adapter, unless it is known.

        Raises:
            AdapterRefusedError: it cannot be served.
            AdapterUnavailableError: its source does not answer, or not in time.
            EngineDeadError: the engine was shut down meanwhile.
        """
        timeout = resolve_timeout()
        try:
            async with asyncio.timeout(timeout):
                adapter = await asyncio.wrap_future(self.materializer.load(request))
        except TimeoutError as error:
            raise AdapterUnavailableError(
                f"Adapter {request.name!r} was not ready within {timeout:g} s; try again later."
            ) from error
        except Abandoned as error:
            raise EngineDeadError(
                f"The engine was shut down before adapter {request.name!r} was read."
            ) from error
        self._follow(request, adapter)
        return adapter

    async def place(self, name: str, adapter: Adapter) -> None:
        """Wait until an adapter is on the device.

        Raises:
            AdapterRefusedError: it cannot be placed.
            AdapterUnavailableError: it gets no room in time.
        """
        timeout = resolve_timeout()
        try:
            async with asyncio.timeout(timeout):
                await asyncio.wrap_future(self.pool.order(adapter))
        except TimeoutError as error:
            raise AdapterUnavailableError(
                f"Adapter {name!r} got no room on the device within {timeout:g} s; unpin another "
                "one, or try again later."
            ) from error

    async def pin(self, request: LoRARequest, adapter: Adapter) -> None:
        """Keep an adapter, on the device once this returns; nothing is kept if it raises.

        Raises:
            InvalidRequestError: too many are pinned.
            AdapterRefusedError: it cannot be placed.
            AdapterUnavailableError: it gets no room in time.
        """
        name = request.name
        before = self._pins.get(name)
        if before is None and len(self._pins) >= self.max_pinned:
            raise InvalidRequestError(
                f"{len(self._pins)} adapters are pinned, and --max-loras allows "
                f"{self.max_pinned}; unpin one first.",
                "name",
            )
        self._set(name, (request.path, adapter))
        try:
            await self.place(name, adapter)
        except BaseException:
            self._set(name, before)
            raise

    def unpin(self, name: str) -> bool:
        """Let an adapter go as any other; tells whether it was pinned."""
        was_pinned = name in self._pins
        self._set(name, None)
        return was_pinned

    def _follow(self, request: LoRARequest, adapter: Adapter) -> None:
        """Whatever is loaded now for a name and path is what the name's pin keeps."""
        path, pinned = self._pins.get(request.name, ("", adapter))
        if path == request.path and pinned is not adapter:
            self._set(request.name, (path, adapter))
            self.pool.order(adapter)

    def infos(self) -> list[AdapterInfo]:
        """Adapters the engine knows, the latest asked for last."""
        references = self.pool.references()
        infos = self.materializer.infos(self.pool.resident_digests)
        return [
            replace(
                info,
                references=references.get(info.digest, 0),
                is_pinned=info.name in self._pins
                and self._pins[info.name][1].digest == info.digest,
            )
            for info in infos
        ]

    def _set(self, name: str, pin: tuple[str, Adapter] | None) -> None:
        if pin is None:
            self._pins.pop(name, None)
        else:
            self._pins[name] = pin
        # Replaced and not changed: other threads are reading them.
        digests = frozenset(adapter.digest for _, adapter in self._pins.values())
        self.pool.pinned = self.materializer.host_cache.pinned = digests
