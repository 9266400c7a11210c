"""Adapters that nobody has asked for yet, as many as a benchmark wants."""

from __future__ import annotations

import random
import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from loramux.bench import BenchmarkError

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"

_PATCHED = 4
"""Numbers at the end of the last tensor that make an adapter differ from all others."""


class AdapterShelf:
    """A directory in which a server finds adapters, each with bytes of its own.

    All are copies of one checkpoint of which a few numbers are changed: as good as new to whoever
    reads, hashes and places them, and written as fast as memory is copied.

    Args:
        directory: where the server looks; made if it is not there.
        template: the checkpoint, in bfloat16 and elsewhere.
    """

    def __init__(self, directory: Path, template: Path) -> None:
        self.directory = directory
        self._weights = (template / WEIGHTS_FILE).read_bytes()
        self._config = (template / CONFIG_FILE).read_bytes()
        self._run = uuid.uuid4().hex[:6]
        self._number = random.randrange(128**_PATCHED // 2)
        self._kept: list[str] = []
        self._used: list[str] = []

    @property
    def adapter_bytes(self) -> int:
        """Size of one adapter's weights."""
        return len(self._weights)

    def keep(self, count: int) -> list[str]:
        """Names of new adapters that stay until ``clear``."""
        names = self._write_new(count)
        self._kept += names
        return names

    def stock(self, count: int) -> list[str]:
        """Names of adapters nobody has ever asked for, on disk and in the page cache.

        Those of the call before are taken from the shelf: their files get other names and other
        bytes, so all requests for them have to be over.

        Raises:
            BenchmarkError: they do not fit on the disk.
        """
        recycled = [self._renew(name) for name in self._used[:count]]
        self._used = self._used[count:] + recycled
        written = self._write_new(count - len(recycled))
        self._used += written
        return recycled + written

    def clear(self) -> None:
        """Remove every adapter that was written here."""
        for name in self._kept + self._used:
            shutil.rmtree(self.directory / name)
        self._kept, self._used = [], []

    def _write_new(self, count: int) -> list[str]:
        self.directory.mkdir(parents=True, exist_ok=True)
        check_room(self.directory, count * self.adapter_bytes)
        labels = [self._next() for _ in range(count)]
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda label: self._write(*label), labels))
        return [name for name, _ in labels]

    def _next(self) -> tuple[str, bytes]:
        """A name and a last few numbers that have not been used."""
        self._number += 1
        digits = [self._number >> 7 * place & 127 for place in range(_PATCHED)]
        # 0x3C00 to 0x3C7F are small finite numbers in bfloat16.
        return f"bench-{self._run}-{self._number}", b"".join(bytes((d, 0x3C)) for d in digits)

    def _write(self, name: str, patch: bytes) -> None:
        path = self.directory / name
        path.mkdir()
        with (path / WEIGHTS_FILE).open("wb") as file:
            file.write(memoryview(self._weights)[: -len(patch)])
            file.write(patch)
        (path / CONFIG_FILE).write_bytes(self._config)

    def _renew(self, old: str) -> str:
        name, patch = self._next()
        path = (self.directory / old).rename(self.directory / name)
        with (path / WEIGHTS_FILE).open("r+b") as file:
            file.seek(-len(patch), 2)
            file.write(patch)
        return name


def check_room(directory: Path, num_bytes: int) -> None:
    """See that there is room for so many bytes.

    Raises:
        BenchmarkError: there is not.
    """
    free = shutil.disk_usage(directory).free
    if free < num_bytes:
        raise BenchmarkError(
            f"The adapters need {num_bytes / 1e9:.1f} GB in {directory}, which has "
            f"{free / 1e9:.1f} GB free; name another place with --scratch, or ask for less with "
            "--quick, --seconds, --rates or --num-adapters."
        )
