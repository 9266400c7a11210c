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

    @contextmanager
    def leave(self) -> Iterator[None]:
        """Launch what is inside on the branch; it begins when all launched before is complete."""
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            yield

    def join(self) -> None:
        """Let what is launched next wait for the branch."""
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
