"""A source of adapters for tests of what is done with sources."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from loramux.lora.source import AdapterSource, FetchProgress


@dataclass(frozen=True)
class FakeSource(AdapterSource):
    """Brings a configuration and ``content``, after ``before`` was called, and counts."""

    name: str
    content: bytes
    version: str = "1"
    before: Callable[[Path], object] = field(default=lambda directory: None, compare=False)
    fetches: list[str] = field(default_factory=list, compare=False)

    @property
    def uri(self) -> str:
        return f"fake://{self.name}"

    @property
    def revision(self) -> str:
        return self.version

    def fetch(self, directory: Path, progress: FetchProgress) -> Path:
        self.fetches.append(threading.current_thread().name)
        config, tensors = directory / "adapter_config.json", directory / "adapter_model.safetensors"
        config.write_bytes(b"{}")
        progress(2, 2 + len(self.content))
        self.before(directory)
        tensors.write_bytes(self.content)
        progress(2 + len(self.content), 2 + len(self.content))
        return directory


def ignore(bytes_done: int, bytes_total: int) -> None:
    """Progress that interests nobody."""
