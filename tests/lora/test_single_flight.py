"""One piece of work for all who want it."""

from __future__ import annotations

import asyncio
import gc
from concurrent.futures import ThreadPoolExecutor

import pytest

from loramux.lora.resolve.single_flight import SingleFlight


class Work:
    """Work that waits for a signal, and counts."""

    def __init__(self, outcome: object = "done") -> None:
        self.started = 0
        self.cancelled = 0
        self.gate = asyncio.Event()
        self.outcome = outcome

    async def __call__(self) -> object:
        self.started += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


async def ask(
    flights: SingleFlight, work: Work, count: int, key: str = "key"
) -> list[asyncio.Task]:
    tasks = [asyncio.create_task(flights.run(key, work)) for _ in range(count)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


def test_all_who_ask_meanwhile_share_one_result():
    async def main():
        flights, work = SingleFlight(), Work(object())
        tasks = await ask(flights, work, 100)
        assert len(flights) == 1
        work.gate.set()
        results = await asyncio.gather(*tasks)
        assert work.started == 1
        assert all(result is work.outcome for result in results)
        await asyncio.sleep(0)
        assert len(flights) == 0

    asyncio.run(main())


def test_an_exception_is_shared_and_not_kept():
    async def main():
        flights, work = SingleFlight(), Work(OSError("disk"))
        tasks = await ask(flights, work, 3)
        work.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert results == [work.outcome] * 3
        work.outcome = "better"
        assert await flights.run("key", work) == "better"
        assert work.started == 2
        assert len(flights) == 0

    asyncio.run(main())


def test_keys_do_not_wait_for_each_other():
    async def main():
        flights, slow, quick = SingleFlight(), Work(), Work()
        (waiting,) = await ask(flights, slow, 1, "slow")
        quick.gate.set()
        assert await flights.run("quick", quick) == "done"
        assert not waiting.done()
        waiting.cancel()

    asyncio.run(main())


@pytest.mark.parametrize("leaving", [0, 1, 2])
def test_one_who_leaves_takes_nothing_from_the_others(leaving):
    async def main():
        flights, work = SingleFlight(), Work()
        tasks = await ask(flights, work, 3)
        tasks[leaving].cancel()
        await asyncio.sleep(0)
        work.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results.pop(leaving), asyncio.CancelledError)
        assert results == ["done", "done"]
        assert (work.started, work.cancelled) == (1, 0)

    asyncio.run(main())


def test_the_last_to_leave_ends_the_work():
    async def main():
        flights, work = SingleFlight(), Work()
        tasks = await ask(flights, work, 3)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)
        assert len(flights) == 0
        await asyncio.sleep(0)
        assert work.cancelled == 1

    asyncio.run(main())


def test_who_comes_after_the_last_has_left_starts_anew():
    async def main():
        flights, stubborn = SingleFlight(), asyncio.Event()

        async def slow_to_die() -> str:
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                await stubborn.wait()
                raise
            return "never"

        (task,) = await ask(flights, slow_to_die, 1)
        task.cancel()
        await asyncio.wait([task])
        work = Work("fresh")
        work.gate.set()
        assert await flights.run("key", work) == "fresh"
        again = Work("again")
        (waiting,) = await ask(flights, again, 1)
        stubborn.set()  # the first work ends only now, and must not tear down the third
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(flights) == 1
        again.gate.set()
        assert await waiting == "again"

    asyncio.run(main())


def test_a_timeout_of_one_waiter_is_its_own():
    async def main():
        flights, work = SingleFlight(), Work()
        (patient,) = await ask(flights, work, 1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await flights.run("key", work)
        work.gate.set()
        assert await patient == "done"

    asyncio.run(main())


def test_no_exception_is_left_unretrieved():
    reports = []

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
        flights, work = SingleFlight(), Work(OSError("disk"))
        tasks = await ask(flights, work, 2)
        tasks[0].cancel()
        work.gate.set()
        await asyncio.wait(tasks)
        assert isinstance(tasks[1].exception(), OSError)
        del tasks
        gc.collect()

    asyncio.run(main())
    assert reports == []


def test_event_loops_do_not_share():
    flights: SingleFlight[int] = SingleFlight()
    counter = iter(range(10))

    async def work() -> int:
        await asyncio.sleep(0.01)
        return next(counter)

    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(lambda: asyncio.run(flights.run("key", work))) for _ in range(4)]
        assert sorted(job.result() for job in jobs) == [0, 1, 2, 3]
    assert len(flights) == 0
