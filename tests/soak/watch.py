"""What a process holds: memory, threads and files, as the kernel tells it."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True)
class Sample:
    """A process at one moment."""

    moment: float
    megabytes: float
    """Resident memory."""
    threads: int
    files: int

    @classmethod
    def of(cls, pid: int) -> Sample:
        process = Path(f"/proc/{pid}")
        status = dict(
            line.split(":\t", 1) for line in (process / "status").read_text().splitlines()
        )
        return cls(
            time.monotonic(),
            int(status["VmRSS"].split()[0]) / 1024,
            int(status["Threads"]),
            len(os.listdir(process / "fd")),
        )


class Watch:
    """Samples of a process, once a second."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.samples: list[Sample] = []

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self.samples.append(Sample.of(self.pid))
            await asyncio.sleep(1)

    def megabytes(self, start: float, end: float) -> float:
        """The usual memory between two fractions of the time."""
        first, last = self.samples[0].moment, self.samples[-1].moment
        begin, finish = (first + (last - first) * share for share in (start, end))
        return median(s.megabytes for s in self.samples if begin <= s.moment <= finish)
