"""``loramux serve`` that gets stuck, to be killed then.

``python -m tests.wire.held_server MARKS WORDS...`` stops for good

- in the midst of publishing the adapter ``published`` into the disk cache: the directory's lock is
  held, and the link to the adapter is there, but not yet the adapter;
- in the midst of reading the adapter ``read``, in a process of its own.

A file of that name in the directory ``MARKS`` says so.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from unittest import mock

from loramux.cli import main
from loramux.lora.disk_cache import cache
from loramux.lora.disk_cache.directory import LockedDirectory
from loramux.lora.read_process import child, child_process
from loramux.lora.read_process.reader import AdapterReader

MARKS = "LORAMUX_TEST_MARKS"


def hold(name: str) -> None:
    Path(os.environ[MARKS], name).touch()
    time.sleep(600)


def hold_publishing(*_: object) -> None:
    hold("published")


def serve(marks: str, *words: str) -> int:
    os.environ[MARKS] = marks
    fetch, tell = cache.DiskCache._fetch, AdapterReader.serve

    def fetch_or_hold(self, key, claim, source, progress):
        if source.uri.endswith("/published"):
            mock.patch.object(LockedDirectory, "publish", hold_publishing).start()
        return fetch(self, key, claim, source, progress)

    def tell_and_wait(self, sites):
        tell(self, sites)
        assert self.wait_until_ready(120)

    mock.patch.object(child_process, "CHILD", "tests.wire.held_server").start()
    with (
        mock.patch.object(cache.DiskCache, "_fetch", fetch_or_hold),
        mock.patch.object(AdapterReader, "serve", tell_and_wait),
    ):
        return main(["serve", *words])


def read() -> None:
    """What the reading process runs."""
    read_adapter = child.read_adapter

    def read_or_hold(directory, *arguments, **options):
        if directory.endswith("/read"):
            hold("read")
        return read_adapter(directory, *arguments, **options)

    with mock.patch.object(child, "read_adapter", read_or_hold):
        child.main()


if __name__ == "__main__":
    if sys.argv[1].isdigit():  # a socket's number: the reading process is started with two
        read()
    else:
        sys.exit(serve(*sys.argv[1:]))
