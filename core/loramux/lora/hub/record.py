"""Which files of one commit loramux fetched, as it is noted on the disk."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from loramux.lora.hub.snapshot import Inode, Snapshot


@dataclass(frozen=True)
class Record:
    """Files of a snapshot, and when (in seconds of the clock) their first download began."""

    snapshot: Snapshot
    files: tuple[str, ...]
    began: float

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The record in a file; None if it holds none that can be read."""
        try:
            fields = json.loads(path.read_bytes().partition(b"\n")[0])
            snapshot = Snapshot(Path(fields["repository"]), fields["commit"])
            return cls(snapshot, tuple(fields["files"]), float(fields["began"]))
        except (OSError, ValueError, TypeError, KeyError):
            return None  # of a process that was killed before it began to fetch

    @classmethod
    def including(cls, path: Path, snapshot: Snapshot, files: Sequence[str]) -> Self:
        """The record in a file, of this snapshot, with more files."""
        known = cls.read(path)
        if known is None:
            return cls(snapshot, tuple(files), time.time())
        return cls(snapshot, tuple(sorted({*files, *known.files})), known.began)

    def write(self, path: Path) -> None:
        """Note it in a file that exists, and may be locked.

        The file stays the same one, and its first line is whole at any moment.
        """
        fields = {
            "repository": str(self.snapshot.repository),
            "commit": self.snapshot.commit,
            "files": self.files,
            "began": self.began,
        }
        with path.open("r+") as file:
            file.write(json.dumps(fields) + "\n")
            file.truncate()

    @property
    def is_whole(self) -> bool:
        """Whether all files have arrived."""
        return all(self.snapshot.has(file) for file in self.files)

    def sizes(self) -> dict[Inode, int]:
        """See ``Snapshot.sizes``."""
        return self.snapshot.sizes(self.files)

    def remove(self) -> int:
        """Remove what arrived, and what did not do so wholly; returns the bytes freed."""
        self.snapshot.remove_unfinished(self.began)
        return self.snapshot.remove(self.files)
