"""Adapters on their way in: which are searched for or read just now, and how the latest ended."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import TypeVar

from loramux.errors import LoramuxError, ModelNotFoundError
from loramux.server.engine_protocol import AdapterInfo

Value = TypeVar("Value")

LOADS_KEPT = 30
NAMES_KEPT = 4096
"""As many as the engine and the catalog remember."""


@dataclass
class Load:
    """One search or one read. ``stage`` is resolving, loading, loaded or failed."""

    number: int
    name: str
    stage: str
    started: float
    """By :func:`time.monotonic`."""
    seconds: float | None = None
    """How long it took, search included; None while it goes on."""
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    num_bytes: int | None = None
    rank: int | None = None
    reason: str | None = None
    """Why it failed, in the words the client got."""
    times: int = 1
    """How often it failed so."""


class LoadLog:
    """What is under way, and the latest that ended; ``version`` changes whenever these do.

    A name that nobody has is counted and not listed: whoever asks for many of them must not push
    out what others want to see. Neither is a look that found an adapter unchanged, and what fails
    again as it failed before is listed once.
    """

    def __init__(self) -> None:
        self.version = 0
        self.num_unknown_names = 0
        self.under_way: dict[int, Load] = {}
        self.ended: deque[Load] = deque(maxlen=LOADS_KEPT)
        self._resolve_seconds: OrderedDict[str, float] = OrderedDict()
        self._digests: OrderedDict[str, str] = OrderedDict()
        self._numbers = count(1)

    def resolve_seconds(self, name: str) -> float | None:
        """How long the resolvers took for a name when they were last asked."""
        return self._resolve_seconds.get(name)

    @contextmanager
    def resolving(self, name: str) -> Iterator[None]:
        """While resolvers are asked for a name."""
        with self._under_way(name, "resolving") as load:
            yield
            _put_bounded(self._resolve_seconds, name, time.monotonic() - load.started)

    @contextmanager
    def loading(self, name: str) -> Iterator[list[AdapterInfo]]:
        """While an adapter is read; the caller appends what came of it."""
        infos: list[AdapterInfo] = []
        with self._under_way(name, "loading") as load:
            yield infos
        for info in infos:
            self._loaded(load, info)

    @contextmanager
    def _under_way(self, name: str, stage: str) -> Iterator[Load]:
        load = Load(next(self._numbers), name, stage, time.monotonic())
        self.under_way[load.number] = load
        self.version += 1
        try:
            yield load
        except ModelNotFoundError:
            self.num_unknown_names += 1
            raise
        except LoramuxError as error:
            self._failed(load, error)
            raise
        finally:
            del self.under_way[load.number]
            self.version += 1

    def _loaded(self, load: Load, info: AdapterInfo) -> None:
        is_new = self._digests.get(load.name) != info.digest
        _put_bounded(self._digests, load.name, info.digest)
        if not is_new:
            return
        searched = self._resolve_seconds.get(load.name, 0.0)
        load.stage = "loaded"
        load.seconds = searched + time.monotonic() - load.started
        load.stage_seconds = {"resolve": searched, **info.load_seconds}
        load.num_bytes, load.rank = info.num_bytes, info.rank
        self.ended.append(load)

    def _failed(self, load: Load, error: LoramuxError) -> None:
        load.stage = "failed"
        load.seconds = time.monotonic() - load.started
        load.reason = str(error)
        failed_so = (it for it in self.ended if (it.name, it.reason) == (load.name, load.reason))
        if (before := next(failed_so, None)) is not None:
            self.ended.remove(before)
            load.times += before.times
        self.ended.append(load)


def _put_bounded(table: OrderedDict[str, Value], key: str, value: Value) -> None:
    table[key] = value
    table.move_to_end(key)
    if len(table) > NAMES_KEPT:
        table.popitem(last=False)
