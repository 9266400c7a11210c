"""Memory that another process fills, made ready here meanwhile."""

from __future__ import annotations

import os
from types import TracebackType

from loramux.lora.checkpoint.finite import Bytes
from loramux.lora.read_process.messages import NotReadError
from loramux.lora.read_process.shared_memory import map_shared, touch

ROOM = 2**20
"""Bytes mapped beyond those known, for the table that is appended in the end."""


class ComingMemory:
    """What ``ReadMemory`` names, until the result says what lies in it.

    Pages that another process has filled are found one by one when they are first looked at, which
    takes as long as to copy them. Found while the adapter is read, nobody waits for that.
    """

    def __init__(self) -> None:
        self._descriptor: int | None = None
        self._mapped: Bytes | None = None

    def __enter__(self) -> ComingMemory:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    def map(self, descriptor: int | None, num_bytes: int) -> None:
        """Map the memory and find its pages; owns the descriptor from now on.

        Raises:
            NotReadError: there was no room for the descriptor, or the memory cannot be mapped.
        """
        if descriptor is None:
            raise NotReadError("this process has too many open files")
        self._descriptor = descriptor
        self._mapped = _map(descriptor, num_bytes + ROOM)
        touch(self._mapped[:num_bytes], writes=False)

    def content(self, num_bytes: int) -> Bytes:
        """The memory, of which there are so many bytes now.

        Raises:
            NotReadError: it was never named, or has grown and cannot be mapped.
        """
        if self._descriptor is None or self._mapped is None:
            raise NotReadError("the memory it was read into was not named")
        if self._mapped.size < num_bytes:
            self._mapped = _map(self._descriptor, num_bytes)
        return self._mapped[:num_bytes]


def _map(descriptor: int, size: int) -> Bytes:
    try:
        return map_shared(descriptor, size)
    except OSError as error:
        raise NotReadError(f"its memory cannot be mapped ({error})") from error
