"""Where an engine's adapters are: loaded, brought to the device early, or kept there."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field, replace

from loramux.errors import AdapterUnavailableError, EngineDeadError, InvalidRequestError
from loramux.logger import get_logger
from loramux.lora.adapter import Adapter, AdapterInfo
from loramux.lora.device.pool import DevicePool
from loramux.lora.fetch.materializer import Materializer
from loramux.lora.fetch.shared_work import Abandoned
from loramux.lora.request import LoRARequest
from loramux.lora.resolve.deadline import resolve_timeout

log = get_logger(__name__)

PINNED_SHARE = 0.5
"""Most of the memory for adapters that pins may take: what is not pinned has to fit as well."""


@dataclass(eq=False)
class _Pin:
    """That an adapter is kept, because somebody asked for it under a path."""

    path: str
    adapter: Adapter
    before: _Pin | None = None
    """What it took the place of, until it is known not to fail."""
    has_failed: bool = False

    @property
    def standing(self) -> _Pin | None:
        """It, or else the latest one before it, that has not failed."""
        pin: _Pin | None = self
        while pin is not None and pin.has_failed:
            pin = pin.before
        return pin


@dataclass
class Residency:
    """Owner of pins, by the name they were asked for under; used on the callers' event loops.

    A pinned adapter is never evicted, neither from the device nor from the host. When new bytes
    are served under its name from the same path, the pin goes over to them.

    Pins take at most half of what the host and the device have room for, so that there is always
    room for adapters that are not pinned.

    Args:
        max_loras: adapters that may run at the same time; more are never pinned.
    """

    materializer: Materializer
    pool: DevicePool
    max_loras: int
    _pins: dict[str, _Pin] = field(default_factory=dict)
    """By the adapter's name."""

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
            EngineDeadError: the engine was shut down meanwhile.
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
            InvalidRequestError: too much is pinned.
            AdapterRefusedError: it cannot be placed.
            AdapterUnavailableError: it gets no room in time.
        """
        name = request.name
        self._check_room(name, adapter)
        pin = _Pin(request.path, adapter, before=self._pins.get(name))
        self._set(name, pin)
        try:
            await self.place(name, adapter)
        except BaseException:
            pin.has_failed = True
            if (latest := self._pins.get(name)) is not None:  # perhaps another's by now
                self._set(name, latest.standing)
            raise
        pin.before = None

    def unpin(self, name: str) -> bool:
        """Let an adapter go as any other; tells whether it was pinned."""
        was_pinned = name in self._pins
        self._set(name, None)
        return was_pinned

    def _follow(self, request: LoRARequest, adapter: Adapter) -> None:
        """Whatever is loaded now for a name and path is what the name's pin keeps."""
        pin = self._pins.get(request.name)
        if pin is None or pin.path != request.path or pin.adapter is adapter:
            return
        try:
            self._check_room(request.name, adapter)
        except InvalidRequestError as error:
            log.warning("adapter %r has grown and is pinned no more: %s", request.name, error)
            self._set(request.name, None)
            return
        self._set(request.name, _Pin(pin.path, adapter))
        self.pool.order(adapter)

    def _check_room(self, name: str, adapter: Adapter) -> None:
        """Raises InvalidRequestError if a name's pin on an adapter would be one too much."""
        others = [pin.adapter for other, pin in self._pins.items() if other != name]
        device, host = self.pool.store.bounds, self.materializer.host_cache.max_bytes
        if len(others) >= self.max_loras:
            raise _too_many(others, f"--max-loras ({self.max_loras}) allows no more")
        most = max(1, int(PINNED_SHARE * device.num_adapters))
        if len(others) >= most:
            places = f"of the {device.num_adapters} adapters that the device has places for"
            raise _too_many(others, f"at most {most} {places} may be")
        adapters = {pinned.digest: pinned for pinned in (*others, adapter)}.values()
        num_bytes = sum(pinned.num_bytes for pinned in adapters)
        if num_bytes > PINNED_SHARE * host:
            raise _too_large(num_bytes, host, "host", "LORAMUX_HOST_CACHE_BYTES")
        num_bytes = sum(pinned.num_elements for pinned in adapters) * device.item_bytes
        if device.num_bytes is not None and num_bytes > PINNED_SHARE * device.num_bytes:
            raise _too_large(num_bytes, device.num_bytes, "device", "--lora-memory-bytes")

    def infos(self) -> list[AdapterInfo]:
        """Adapters the engine knows, the latest asked for last; may be asked on any thread."""
        references, pins = self.pool.references(), self._pins.copy()
        infos = self.materializer.infos(self.pool.resident_digests)
        return [
            replace(
                info,
                references=references.get(info.digest, 0),
                is_pinned=info.name in pins and pins[info.name].adapter.digest == info.digest,
            )
            for info in infos
        ]

    def _set(self, name: str, pin: _Pin | None) -> None:
        if pin is None:
            self._pins.pop(name, None)
        else:
            self._pins[name] = pin
        # Replaced and not changed: other threads are reading them.
        digests = frozenset(pin.adapter.digest for pin in self._pins.values())
        self.pool.pinned = self.materializer.host_cache.pinned = digests


def _too_many(pinned: Collection[Adapter], bound: str) -> InvalidRequestError:
    verb = "adapter is" if len(pinned) == 1 else "adapters are"
    return InvalidRequestError(
        f"{len(pinned)} {verb} pinned, and {bound}; unpin one first.", "name"
    )


def _too_large(num_bytes: int, all_bytes: int, memory: str, option: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"Pinned adapters would have {num_bytes / 1e6:.1f} MB of the {memory}'s memory for "
        f"adapters, {all_bytes / 1e6:.1f} MB, and {PINNED_SHARE:.0%} of it may be pinned; unpin "
        f"one first, or raise {option}.",
        "name",
    )
