"""One soak: a population, a server, its clients, and what they saw."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles

import httpx
import openai

from tests.server.server_process import ServerProcess, serving
from tests.soak.clients import Clients, Tally
from tests.soak.population import Population
from tests.soak.watch import Sample, Watch

SETTLING_SECONDS = 1.0
"""After the last answer: keep-alive connections that clients closed, and reads that were left."""

MAX_GROWTH = 8.0
"""Megabytes; the bounded tables of names are still filling while they grow by this."""

MAX_THREADS = 64
"""All pools of the server together; none grows with the requests."""


@dataclass(frozen=True)
class Soak:
    """What was seen.

    Args:
        idle_before: the server at rest after the first third of the time.
        idle_after: the server at rest in the end.
        left_behind: files in the server's cache and temporary directories.
    """

    seconds: float
    tally: Tally
    watch: Watch
    idle_before: Sample
    idle_after: Sample
    left_behind: list[Path]

    def problems(self) -> list[str]:
        """What should not be; one sentence each."""
        grown = self.idle_after.files - self.idle_before.files
        found = {
            f"{len(self.tally.wrong)} answers were wrong: {self.tally.wrong[:5]}": self.tally.wrong,
            f"the memory grew by {self.growth:.1f} MB": self.growth > MAX_GROWTH,
            f"{self.idle_after.threads} threads run": self.idle_after.threads > MAX_THREADS,
            f"{grown} more files are open": grown > 0,
            f"files were left behind: {self.left_behind}": self.left_behind,
        }
        return [problem for problem, is_there in found.items() if is_there]

    @property
    def growth(self) -> float:
        """Megabytes by which the last fifth is larger than the second one."""
        return self.watch.megabytes(0.8, 1) - self.watch.megabytes(0.2, 0.4)

    def lines(self) -> Iterator[str]:
        """The report, for people."""
        deciles = [1000 * second for second in quantiles(self.tally.seconds, n=100)]
        yield f"{self.tally.answers.total()} events in {self.seconds:.0f} s, of which"
        yield from (f"  {number:7} {kind}" for kind, number in self.tally.answers.most_common())
        yield f"milliseconds to an answer: median {deciles[49]:.0f}, p99 {deciles[98]:.0f}"
        for fifth in range(5):
            megabytes = self.watch.megabytes(fifth / 5, (fifth + 1) / 5)
            yield f"resident memory, fifth {fifth + 1} of the time: {megabytes:.1f} MB"
        yield f"at rest, after the first third: {self.idle_before}"
        yield f"at rest, in the end:            {self.idle_after}"
        yield f"problems: {'; '.join(self.problems()) or 'none'}"


def soak(root: Path, *, seconds: float, adapters: int, clients: int, seed: int = 0) -> Soak:
    """Let clients ask a real server for ``adapters`` adapters for a while."""
    population = Population(root)
    for number in range(adapters):
        population.publish(f"adapter-{number}")
    private = [root / name for name in ("cache", "tmp")]
    for directory in private:
        directory.mkdir()
    with _server(population, *private) as server:
        crowd = _Crowd(server, population, clients, seed)
        before, after = asyncio.run(crowd.soak(seconds))
        left = [path for directory in private for path in directory.rglob("*") if path.is_file()]
        assert server.end() == 0
    return Soak(seconds, crowd.tally, crowd.watch, before, after, left)


@contextmanager
def _server(population: Population, cache: Path, tmp: Path) -> Iterator[ServerProcess]:
    words = [
        str(population.model), "--served-model-name", "base", "--enable-lora",
        "--max-loras", "8", "--max-cpu-loras", "64", "--max-num-seqs", "32",
    ]  # fmt: skip
    environment = {
        "LORAMUX_PLUGINS": "lora_filesystem_resolver",
        "LORAMUX_LORA_RESOLVER_CACHE_DIR": str(population.directory),
        "LORAMUX_LORA_RECHECK_SECONDS": "1",
        "LORAMUX_LORA_NEGATIVE_TTL": "1",
        "LORAMUX_ADAPTER_CACHE_DIR": str(cache),
        "LORAMUX_LOGGING_LEVEL": "WARNING",
        "TMPDIR": str(tmp),
    }
    with serving(*words, **environment) as server:
        yield server


class _Crowd:
    """The clients of one server, and who watches it."""

    def __init__(
        self, server: ServerProcess, population: Population, clients: int, seed: int
    ) -> None:
        self.tally = Tally()
        self.watch = Watch(server.process.pid)
        self._url = server.url
        self._population = population
        self._number = clients
        self._seed = seed

    async def soak(self, seconds: float) -> tuple[Sample, Sample]:
        """Ask for so long, with a rest after a third of it."""
        watching = asyncio.create_task(self.watch.run())
        before = await self._ask(seconds / 3, self._seed)
        after = await self._ask(seconds * 2 / 3, self._seed + 1)
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        return before, after

    async def _ask(self, seconds: float, seed: int) -> Sample:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=self._number)
        http = openai.DefaultAsyncHttpxClient(verify=False, limits=limits)
        async with openai.AsyncOpenAI(
            base_url=f"{self._url}/v1", api_key="none", max_retries=0, http_client=http, timeout=60
        ) as client:
            clients = Clients(client, self._population, seed, self.tally)
            await clients.ask_until(time.monotonic() + seconds, self._number)
        await asyncio.sleep(SETTLING_SECONDS)
        return Sample.of(self.watch.pid)
