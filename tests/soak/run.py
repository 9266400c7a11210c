"""One soak: a population, a server, its clients, and what they saw."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles

import httpx
import openai

from tests.server.server_process import ServerProcess, serving
from tests.soak.clients import Clients, Tally
from tests.soak.moods import TIMEOUT, Record
from tests.soak.population import Population
from tests.soak.watch import Sample, Watch

SETTLING_SECONDS = 1.0
"""After the last answer: keep-alive connections that clients closed, and reads that were left."""

MAX_SETTLING_SECONDS = 30
"""Until no more files are open than before, on a machine that is busy."""

MAX_GROWTH = 8.0
"""Megabytes; the bounded tables of names are still filling while they grow by this."""

GAUGES = re.compile(
    r"^loramux:(num_requests_running|num_requests_waiting|sequences_in_flight) (\S+)$", re.MULTILINE
)
"""Of what a server that nobody asks anything must not do."""

MAX_THREADS = 80
"""All pools of the server together; none grows with the requests."""


@dataclass(frozen=True)
class Soak:
    """What was seen.

    Args:
        idle_before: the server at rest after the first third of the time.
        idle_after: the server at rest in the end.
        unfinished: what the server still did at rest, by the names of its gauges.
        left_behind: files in the server's cache and temporary directories.
    """

    seconds: float
    tally: Tally
    watch: Watch
    idle_before: Sample
    idle_after: Sample
    unfinished: dict[str, float]
    left_behind: list[Path]

    def problems(self) -> list[str]:
        """What should not be; one sentence each."""
        grown = self.idle_after.files - self.idle_before.files
        unanswered = self.tally.asked - self.tally.requests
        found = {
            f"{len(self.tally.wrong)} answers were wrong: {self.tally.wrong[:5]}": self.tally.wrong,
            f"{unanswered} requests have no answer": unanswered,
            f"the server goes on with {self.unfinished}": self.unfinished,
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
        yield f"seconds for which an old adapter was served, at most: {self.tally.stalest:.1f}"
        for fifth in range(5):
            megabytes = self.watch.megabytes(fifth / 5, (fifth + 1) / 5)
            yield f"resident memory, fifth {fifth + 1} of the time: {megabytes:.1f} MB"
        yield f"at rest, after the first third: {self.idle_before}"
        yield f"at rest, in the end:            {self.idle_after}"
        yield f"problems: {'; '.join(self.problems()) or 'none'}"


def soak(
    root: Path,
    *,
    seconds: float,
    adapters: int,
    clients: int,
    moods: float,
    seed: int = 0,
    timeout: float = TIMEOUT,
) -> Soak:
    """Let clients ask a real server for ``adapters`` adapters for a while.

    Args:
        moods: share of the questions that two of the three resolvers do not answer soundly.
        timeout: seconds that finding an adapter may take.
    """
    population = Population(root)
    for number in range(adapters):
        population.publish(f"adapter-{number}")
    private = [root / name for name in ("cache", "tmp")]
    for directory in private:
        directory.mkdir()
    record = Record(root / "moods.jsonl")
    environment = {
        "LORAMUX_LORA_RESOLVE_TIMEOUT": str(timeout),
        "LORAMUX_ADAPTER_CACHE_DIR": str(private[0]),
        "TMPDIR": str(private[1]),
    }
    with _server(population, record, moods, environment) as server:
        crowd = _Crowd(server, population, record, clients, seed)
        before, after = asyncio.run(crowd.soak(seconds))
        unfinished = asyncio.run(_unfinished(server))
        left = [path for directory in private for path in directory.rglob("*") if path.is_file()]
        assert server.end() == 0
    return Soak(seconds, crowd.tally, crowd.watch, before, after, unfinished, left)


@contextmanager
def _server(
    population: Population, record: Record, moods: float, more: Mapping[str, str]
) -> Iterator[ServerProcess]:
    words = [
        str(population.model), "--served-model-name", "base", "--enable-lora",
        "--max-loras", "8", "--max-cpu-loras", "64", "--max-num-seqs", "32",
    ]  # fmt: skip
    environment = {
        "LORAMUX_PLUGINS": "",
        "LORAMUX_LORA_RECHECK_SECONDS": "1",
        "LORAMUX_LORA_NEGATIVE_TTL": "1",
        "HF_HUB_OFFLINE": "1",
        **more,
    }
    module = ("tests.soak.server", str(population.directory), str(record.path), str(moods))
    with serving(*words, module=module, **environment) as server:
        yield server


async def _unfinished(server: ServerProcess) -> dict[str, float]:
    """Gauges of work that are not 0, once the server has had the time to end all of it."""
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        for _ in range(120):
            text = (await client.get("/metrics")).text
            numbers = {name: float(found) for name, found in GAUGES.findall(text)}
            if set(numbers.values()) == {0.0}:
                return {}
            await asyncio.sleep(0.5)
    return numbers


class _Crowd:
    """The clients of one server, and who watches it."""

    def __init__(
        self,
        server: ServerProcess,
        population: Population,
        record: Record,
        clients: int,
        seed: int,
    ) -> None:
        self.tally = Tally()
        self.watch = Watch(server.process.pid)
        self._url = server.url
        self._population = population
        self._record = record
        self._number = clients
        self._seed = seed

    async def soak(self, seconds: float) -> tuple[Sample, Sample]:
        """Ask for so long, with a rest after a third of it."""
        watching = asyncio.create_task(self.watch.run())
        before = await self._ask(seconds / 3, self._seed)
        after = await self._ask(seconds * 2 / 3, self._seed + 1)
        for _ in range(MAX_SETTLING_SECONDS):
            if after.files <= before.files:
                break
            await asyncio.sleep(1)
            after = Sample.of(self.watch.pid)
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
            clients = Clients(client, self._population, self._record, seed, self.tally)
            await clients.ask_until(time.monotonic() + seconds, self._number)
        await asyncio.sleep(SETTLING_SECONDS)
        return Sample.of(self.watch.pid)
