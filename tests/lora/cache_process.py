"""Another process with the same disk cache, to be watched, held up and killed.

``python -m tests.lora.cache_process DIRECTORY POINT`` fetches an adapter called "shared", prints
"there" when it gets to the point, and then waits for a line on its standard input:

- ``fetch``: half of the files have been fetched;
- ``seal``, ``link``, ``publish``: just before the step of that name;
- ``evict``: it is published, and what there is too much of is about to be evicted;
- ``use``: the adapter is in use.

In the end it prints the adapter's content.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from unittest import mock

from loramux.lora.disk_cache import cache as disk_cache
from loramux.lora.disk_cache.cache import DiskCache
from loramux.lora.disk_cache.directory import LockedDirectory
from tests.lora.fake_source import FakeSource, ignore

CONTENT = b"from another process"


def hold(*arguments: object) -> None:
    print("there", flush=True)
    sys.stdin.readline()


def holding_before(step, skip=0):
    calls = itertools.count()

    def held(*arguments):
        if next(calls) == skip:
            hold()
        return step(*arguments)

    return held


def main(directory: str, point: str) -> None:
    if point in ("link", "publish", "evict"):
        earlier = 1 if point == "evict" else 0  # room is made before the fetch, too
        step = holding_before(getattr(LockedDirectory, point), skip=earlier)
        mock.patch.object(LockedDirectory, point, step).start()
    if point == "seal":
        mock.patch.object(disk_cache, "seal", holding_before(disk_cache.seal)).start()
    wait = {"before": hold} if point == "fetch" else {}
    source = FakeSource("shared", CONTENT, **wait)
    with DiskCache(Path(directory), 10**6).get_or_fetch(source, ignore) as checkpoint:
        if point == "use":
            hold()
        print((checkpoint.directory / "adapter_model.safetensors").read_bytes().decode())


if __name__ == "__main__":
    main(*sys.argv[1:])
