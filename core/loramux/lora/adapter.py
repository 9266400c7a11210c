"""One adapter, whatever it is called and wherever its tensors are just now."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


@dataclass(frozen=True)
class SourceRevision:
    """What tells that a local checkpoint may have changed, without reading it.

    One ``(name, inode, size, mtime_ns)`` for each file. Equal revisions are taken for equal
    bytes; after any read, the digest decides.
    """

    files: tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True)
class LocalCheckpoint:
    """A checkpoint in a directory of this machine, as it was when somebody looked."""

    directory: Path
    revision: SourceRevision
    base_model_name: str | None = None
    """The base model the requester declared it for, instead of what its configuration says."""


@dataclass(eq=False)
class Adapter:
    """An adapter's identity, and what is worth knowing without its tensors.

    Two names, or two paths, with the same bytes are one adapter.
    """

    digest: str
    source: LocalCheckpoint
    max_rank: int
    num_bytes: int
    load_seconds: dict[str, float] = field(default_factory=dict)
    """Seconds each stage took when it was last made ready: ``fetch``, ``read``, ``place``."""


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
