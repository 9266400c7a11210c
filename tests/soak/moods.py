"""Resolvers that fail at random, and a record of what they did by which answers are judged."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from loramux import LoRARequest, LoRAResolver
from loramux.errors import AdapterRefusedError

TIMEOUT = 6.0
"""Seconds from a name to a loaded adapter, at most; the first of three resolvers may take a third
of them."""

PATIENCE = TIMEOUT + 1
"""A request may join a search that began so long before it, and learn what came of that."""

BLOCKED_SECONDS = 3.0

EVERYBODY = ""
"""Stands for all names where a deed held up all of them."""


@dataclass(frozen=True)
class Deed:
    """What a resolver did about a name from ``begin`` to ``end``, by :func:`time.monotonic`.

    ``kind`` is "failed": it could not tell; "hung": it did not, for so long; "refused"; or "lied":
    it said where there is nothing.
    """

    kind: str
    name: str
    begin: float
    end: float


class Record:
    """Deeds in a file, which one process writes to and another reads from."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.touch()
        self._read = 0
        self._latest: deque[Deed] = deque(maxlen=2000)

    def add(self, deed: Deed) -> None:
        """Write a deed down, at once and whole."""
        with self.path.open("a") as file:
            file.write(json.dumps(asdict(deed)) + "\n")

    def kinds(self, name: str, asked: float, answered: float) -> set[str]:
        """What resolvers did that a request may have come to feel."""
        self._catch_up()
        return {
            deed.kind
            for deed in self._latest
            if deed.name in (name, EVERYBODY)
            and deed.begin <= answered
            and deed.end >= asked - PATIENCE
        }

    def _catch_up(self) -> None:
        with self.path.open("rb") as file:
            file.seek(self._read)
            lines, _, _ = file.read().rpartition(b"\n")
        self._read += len(lines) + bool(lines)
        self._latest += [Deed(**json.loads(line)) for line in lines.splitlines()]


class MoodyResolver(LoRAResolver):
    """Knows what another resolver knows, and says it, or does not, or does something else.

    Args:
        sound: the other one; None has nothing.
        wrong: directories that hold no adapter, or none for this model.
        record: notes what was done wrongly, before it is done.
        share: of the questions that are not answered soundly.
    """

    def __init__(
        self, sound: LoRAResolver | None, wrong: list[str], record: Record, share: float, seed: int
    ) -> None:
        self._sound = sound
        self._wrong = [*wrong, "nobody/has/this", "nobody/this", "a\0b", "\udcff", "x" * 10_000]
        self._record = record
        self._share = share
        self._random = random.Random(seed)

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> Any:
        """Whatever the mood is; in a good one, the truth, now and then in other words."""
        if self._random.random() >= self._share:
            truth = await self._truth(base_model_name, lora_name)
            return truth and self._random.choice(WORDS)(truth)
        return await self._random.choices(list(MOODS), list(MOODS.values()))[0](self, lora_name)

    async def _truth(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        """What the other resolver says, or in half of the cases that somebody else may know."""
        if self._sound is None or self._random.random() < 0.5:
            return None
        if self._random.random() < 0.1:
            await asyncio.sleep(self._random.random() / 2)
        return await self._sound.resolve_lora(base_model_name, lora_name)

    async def _raises(self, name: str) -> None:
        self._note("failed", name)
        raise self._random.choice(
            [OSError("gone"), ValueError("\n" * 50), SystemExit(3), KeyboardInterrupt(), KeyError]
        )

    async def _cancels_itself(self, name: str) -> None:
        self._note("failed", name)
        raise asyncio.CancelledError

    async def _hangs(self, name: str) -> None:
        """Some hear of their end and think it over."""
        self._note("hung", name, TIMEOUT)
        if self._random.random() < 0.5:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(TIMEOUT)
        await asyncio.sleep(self._random.random())
        raise TimeoutError

    async def _blocks(self, name: str) -> None:
        self._note("hung", EVERYBODY, BLOCKED_SECONDS)
        time.sleep(BLOCKED_SECONDS)  # which is what it must survive

    async def _returns_nonsense(self, name: str) -> object:
        self._note("failed", name)
        return self._random.choice([str(name), 17, [name], {"lora_path": name}, object(), True])

    async def _refuses(self, name: str) -> None:
        self._note("refused", name)
        raise AdapterRefusedError("this one is not for you; ask for another.")

    async def _lies(self, name: str) -> LoRARequest:
        self._note("lied", name)
        return LoRARequest(name, 1, self._random.choice(self._wrong))

    def _note(self, kind: str, name: str, seconds: float = 0) -> None:
        now = time.monotonic()
        self._record.add(Deed(kind, name, now, now + seconds))


MOODS: dict[Callable[[MoodyResolver, str], Awaitable[Any]], int] = {
    MoodyResolver._raises: 30,
    MoodyResolver._cancels_itself: 10,
    MoodyResolver._hangs: 8,
    MoodyResolver._blocks: 1,
    MoodyResolver._returns_nonsense: 30,
    MoodyResolver._refuses: 12,
    MoodyResolver._lies: 9,
}

WORDS: list[Callable[[LoRARequest], LoRARequest]] = [
    lambda truth: truth,
    lambda truth: replace(truth, lora_int_id=1),
    lambda truth: replace(truth, lora_int_id=random.getrandbits(62) + 1),
    lambda truth: replace(truth, lora_name="somebody-else"),
    lambda truth: replace(truth, lora_path=f"{truth.lora_path}/."),
    lambda truth: replace(truth, load_inplace=True),
]
"""Ways to say the same: an adapter is its bytes, whatever its resolver calls it."""
