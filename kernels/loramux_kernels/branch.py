"""A stream that leaves the current one and joins it again: in a captured graph, a branch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Branch:
    """Runs one piece of work beside what the current stream goes on with."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._work: object = None

    @contextmanager
    def leave(self, work: object) -> Iterator[None]:
        """Launch what is inside on the branch; it begins when all launched before is complete."""
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            yield
        self._work = work

    def join(self, work: object) -> bool:
        """Let what is launched next wait for the branch; False if this is not what it does."""
        if self._work != work:
            return False
        self._work = None
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        return True
