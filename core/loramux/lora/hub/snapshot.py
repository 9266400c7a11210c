"""One commit in the Hugging Face cache, and how files are taken out of it again.

::

    <repository>/snapshots/<commit>/<file>     a link to the content
    <repository>/blobs/<hash>                  the content, for all commits that have it
    <repository>/refs/<branch>                 the commit at which a branch was last seen
    <repository>/../.locks/<repository>/       locks of the downloads under way

Where links are not possible, the content itself is in the snapshot.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from loramux.lora.disk_cache.file_lock import is_held

Inode = tuple[int, int]
"""Device and number."""


@dataclass(frozen=True)
class Snapshot:
    """A commit of a repository, whose folder in the cache is ``repository``."""

    repository: Path
    commit: str

    def path(self, file: str) -> Path:
        """Where a file is, or would be."""
        return self.repository / "snapshots" / self.commit / file

    def has(self, file: str) -> bool:
        """Whether a file is there, with its content."""
        return os.path.isfile(self.path(file))  # not Path.is_file, which raises for long names

    def sizes(self, files: Iterable[str]) -> dict[Inode, int]:
        """Size of each content; one that several files share counts once."""
        statuses = [os.stat(self.path(file)) for file in files if self.has(file)]
        return {(status.st_dev, status.st_ino): status.st_size for status in statuses}

    def remove(self, files: Iterable[str]) -> int:
        """Take files out of the commit, and their contents where no other file has them.

        Returns:
            The number of bytes that were freed.
        """
        links = [link for file in files if os.path.lexists(link := self.path(file))]
        shared = {_content(link) for link in self._links() if link not in links}
        freed = 0
        for link in links:
            content = _content(link)
            if content not in shared and content.is_file():
                freed += content.stat().st_size
                content.unlink()  # before its link, so that this can be ended if it is interrupted
            link.unlink(missing_ok=True)
        self._tidy()
        return freed

    def remove_unfinished(self, since: float) -> None:
        """Delete what downloads that ended since then (in seconds of the clock) did not finish."""
        if not self.is_being_downloaded():
            for path in (self.repository / "blobs").glob("*.incomplete"):
                if path.stat().st_mtime >= since:
                    path.unlink()

    def is_being_downloaded(self) -> bool:
        """Whether any process that uses huggingface_hub is fetching a file of this repository."""
        locks = self.repository.parent / ".locks" / self.repository.name
        return any(is_held(path) for path in locks.glob("*.lock"))

    def _links(self) -> Iterator[Path]:
        """The files of all commits."""
        for directory, _, names in os.walk(self.repository / "snapshots"):
            yield from (Path(directory, name) for name in names)

    def _tidy(self) -> None:
        """Remove empty directories, and what says that a branch is at a commit that is gone."""
        if self.is_being_downloaded():
            return  # huggingface_hub makes directories before it begins
        snapshot = self.repository / "snapshots" / self.commit
        for directory, _, _ in os.walk(snapshot, topdown=False):
            with suppress(OSError):  # it is not empty
                os.rmdir(directory)
        if not snapshot.exists():
            self._forget_branches()

    def _forget_branches(self) -> None:
        for directory, _, names in os.walk(self.repository / "refs"):
            for path in (Path(directory, name) for name in names):
                if path.read_bytes().strip() == self.commit.encode():
                    path.unlink()


def _content(link: Path) -> Path:
    """Where the content of a file is: one link is followed, for that may be another tool's."""
    return Path(os.path.normpath(link.parent / link.readlink())) if link.is_symlink() else link
