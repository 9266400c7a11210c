"""One adapter, whatever it is called and wherever its tensors are just now."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from loramux.lora.fetch.origin import CheckpointOrigin


@dataclass(eq=False)
class Adapter:
    """An adapter's identity, and what is worth knowing without its tensors.

    Two names, or two paths, with the same bytes are one adapter.
    """

    digest: str
    origin: CheckpointOrigin
    max_rank: int
    num_bytes: int
    """On the host, in the dtype it was saved in."""
    num_elements: int
    """Of all its matrices, whatever dtype the device holds them in."""
    load_seconds: dict[str, float] = field(default_factory=dict)
    """Seconds each stage took when it was last made ready: ``fetch``, ``read``, ``place``."""
    is_fresh: bool = True
    """Its tensors have been read and nobody has asked for them since."""
    stages: dict[str, tuple[float, float]] = field(default_factory=dict)
    """When each of them began and ended, by :func:`time.monotonic`."""

    def note_stage(self, name: str, began: float, ended: float) -> None:
        """Note what a stage took, by :func:`time.monotonic`."""
        self.load_seconds[name] = ended - began
        self.stages[name] = (began, ended)


class Tier(StrEnum):
    """The fastest memory that holds an adapter's tensors."""

    DEVICE = "device"
    HOST = "host"
    DISK = "disk"


@dataclass(frozen=True)
class AdapterInfo:
    """An adapter as it is shown to people."""

    name: str
    digest: str
    path: str
    rank: int
    num_bytes: int
    tier: Tier
    load_seconds: dict[str, float]
    references: int = 0
    """Sequences that hold it on the device."""
    is_pinned: bool = False
