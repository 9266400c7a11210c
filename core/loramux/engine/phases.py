"""How long each part of a start took."""

from __future__ import annotations

import time


class Phases:
    """Seconds of what was done one after the other, from the moment this is made."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.perf_counter()

    def end(self, name: str) -> None:
        """Note that ``name`` was done since the last phase ended."""
        now = time.perf_counter()
        self.seconds[name] = now - self._began
        self._began = now

    def __str__(self) -> str:
        return ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.seconds.items())
