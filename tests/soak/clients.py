"""Clients that ask for adapters as people do: few names often, some in vain, some leaving early."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import accumulate, count

import openai

from tests.soak.moods import Record
from tests.soak.population import PROMPTS, TOKENS, Population

TRUST = 4.0
"""Seconds after which a server must have noticed a change: its own interval, and some delay."""

CHECK_SECONDS = 6.0
"""How much longer it may believe what it knows if a resolver hangs: until it stops to wait for the
resolvers, and for its interval again."""

ERRORS_AFTER = {
    "lied": {"HTTP 400", "HTTP 404", "HTTP 503"},
    "refused": {"HTTP 400"},
    "failed": {"HTTP 503"},
    "hung": {"HTTP 503"},
}
"""How a request may end after what a resolver did."""

SHOWN_BY_ALL = frozenset({"lied", "hung"})
"""A lie is believed, and whoever hangs uses up others' time. For all else the next one is asked, so
that it shows only where nobody has the adapter."""

LEAVING_SECONDS = 0.05
"""How long those who leave early wait at most."""

HOSTILE = ("../model", "%2e%2e/model", "/etc", "adapter-1/..", "a\u2215b", "x" * 10_000, "a\x00b")


@dataclass
class Tally:
    """What became of the requests; ``wrong`` has to stay empty."""

    asked: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    stalest: float = 0.0
    """For how long at most an adapter was served that was another by then."""

    CHANGES = frozenset({"replaced on disk", "put back on disk", "removed on disk"})

    @property
    def requests(self) -> int:
        """Those that have come to an end."""
        return sum(number for kind, number in self.answers.items() if kind not in self.CHANGES)

    def judge(self, kind: str, is_right: bool, what: str) -> None:
        self.answers[kind] += 1
        if not is_right:
            self.wrong.append(f"{kind}: {what}")


class Clients:
    """People who ask one server until they are told to stop."""

    def __init__(
        self,
        client: openai.AsyncOpenAI,
        population: Population,
        record: Record,
        seed: int,
        tally: Tally,
    ) -> None:
        self.tally = tally
        self._client = client
        self._population = population
        self._record = record
        self._random = random.Random(seed)
        self._names = list(population.eras)
        self._weights = list(accumulate(1 / rank for rank in range(1, len(self._names) + 1)))
        self._unknown = count()
        self._missing: deque[tuple[float, str]] = deque()

    async def ask_until(self, end: float, number: int) -> None:
        """Keep ``number`` requests under way, and adapters changing on disk, until a time."""
        askers = [self._repeat(end, self._one) for _ in range(number)]
        await asyncio.gather(*askers, self._repeat(end, self._change_one))

    async def _repeat(self, end: float, act: Callable[[], Awaitable[None]]) -> None:
        while time.monotonic() < end:
            await act()

    async def _one(self) -> None:
        kinds = {
            self._whole: 55, self._streamed: 20, self._leaving: 12, self._base: 4,
            self._unheard: 6, self._hostile: 3,
        }  # fmt: skip
        (act,) = self._random.choices(list(kinds), list(kinds.values()))
        self.tally.asked += 1
        await act()

    async def _whole(self) -> None:
        await self._checked(self._popular(), self._text)

    async def _streamed(self) -> None:
        await self._checked(self._popular(), self._streamed_text)

    async def _base(self) -> None:
        prompt = self._random.choice(PROMPTS)
        try:
            text = await self._text("base", prompt)
        except openai.APIError as error:
            text = str(error)
        self.tally.judge("base", text == self._population.base_texts[prompt], text)

    async def _unheard(self) -> None:
        await self._refused("unknown", f"unheard-of-{next(self._unknown)}")

    async def _hostile(self) -> None:
        await self._refused("hostile", self._random.choice(HOSTILE))

    async def _leaving(self) -> None:
        """Half of them cut a stream, the others do not wait for the answer."""
        name, prompt = self._popular(), self._random.choice(PROMPTS)
        ask = self._first_piece if self._random.random() < 0.5 else self._text
        try:
            async with asyncio.timeout(self._random.uniform(0, LEAVING_SECONDS)):
                await ask(name, prompt)
        except (TimeoutError, openai.APIError):
            pass
        self.tally.answers["left"] += 1

    async def _change_one(self) -> None:
        """New bytes under a name, or its end; the popular ones change more often."""
        name = self._missing_for_long() or self._popular()
        act, kind = self._population.publish, "replaced on disk"
        if not self._population.is_there(name):
            kind = "put back on disk"
        elif self._random.random() < 0.3:
            act, kind = self._population.remove, "removed on disk"
            self._missing.append((time.monotonic(), name))
        await asyncio.to_thread(act, name)
        self.tally.answers[kind] += 1
        await asyncio.sleep(self._random.uniform(0, 1))

    def _missing_for_long(self) -> str | None:
        """A name whose end every server must have noticed, if there is one."""
        if self._missing and time.monotonic() - self._missing[0][0] > TRUST + 1:
            return self._missing.popleft()[1]
        return None

    async def _checked(self, name: str, ask: Callable[[str, str], Awaitable[str]]) -> None:
        prompt, asked = self._random.choice(PROMPTS), time.monotonic()
        text, kind = await _outcome(ask(name, prompt))
        answered = time.monotonic()
        deeds = self._record.kinds(name, asked, answered)
        trust = TRUST + CHECK_SECONDS * ("hung" in deeds)
        meanings = self._population.meanings(name, asked, answered, trust)
        allowed = [texts and texts[prompt] for texts in meanings]
        if kind == "answered":
            self.tally.seconds.append(answered - asked)
            stale = self._population.staleness(name, prompt, text, asked)
            self.tally.stalest = max(self.tally.stalest, stale)
            is_right = text in allowed
        elif None in allowed:
            is_right = kind == "HTTP 404" or kind in _errors_after(deeds)
        else:
            # While its bytes change, a request that was waiting for the old ones may be sent back.
            is_changing = kind == "HTTP 503" and len(allowed) > 1
            is_right = is_changing or kind in _errors_after(deeds & SHOWN_BY_ALL)
            kind += " for one that is there"
        whose = "" if is_right else self._population.whose(prompt, text, asked)
        told = f"{name} said {text!r} ({whose}), not one of {allowed}, after {deeds or 'nothing'}"
        self.tally.judge(kind, is_right, told)

    async def _refused(self, kind: str, name: str) -> None:
        asked = time.monotonic()
        text, outcome = await _outcome(self._text(name, PROMPTS[0]))
        deeds = self._record.kinds(name, asked, time.monotonic())
        is_right = outcome == "HTTP 404" or outcome in _errors_after(deeds)
        self.tally.judge(kind, is_right, f"{name[:40]!r}: {outcome}, {text!r}, after {deeds}")

    def _popular(self) -> str:
        """A power law: the n-th name is asked for 1/n as often as the first."""
        (name,) = self._random.choices(self._names, cum_weights=self._weights)
        return name

    async def _text(self, name: str, prompt: str) -> str:
        answer = await self._client.completions.create(
            model=name, prompt=prompt, max_tokens=TOKENS, temperature=0
        )
        return answer.choices[0].text

    async def _streamed_text(self, name: str, prompt: str) -> str:
        stream = await self._client.completions.create(
            model=name, prompt=prompt, max_tokens=TOKENS, temperature=0, stream=True
        )
        return "".join([chunk.choices[0].text async for chunk in stream])

    async def _first_piece(self, name: str, prompt: str) -> None:
        stream = await self._client.completions.create(
            model=name, prompt=prompt, max_tokens=TOKENS, temperature=0, stream=True
        )
        async with stream:
            async for _ in stream:
                return


async def _outcome(answer: Awaitable[str]) -> tuple[str, str]:
    """What came, and its kind."""
    try:
        return await answer, "answered"
    except openai.APIStatusError as error:
        return str(error), f"HTTP {error.status_code}"
    except openai.APIError as error:  # it broke off, or nothing came for a minute
        return repr(error), "without an answer"


def _errors_after(deeds: set[str]) -> set[str]:
    return set().union(*(ERRORS_AFTER[deed] for deed in deeds))
