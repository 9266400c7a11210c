"""Symbolic links between adapters of one directory, which several people may write to.

Whoever can put a link into a directory can as well rename what is in it. So a link that leads to
somewhere below the directory that it lies in gives away nothing, as in ``sql/current -> v3``; one
that leads out of it may lead to what is somebody else's.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from loramux.errors import AdapterUnavailableError


@dataclass(frozen=True)
class FollowedPath:
    """Where a path really leads, and whether a link on the way has led away from where it lies."""

    real: str
    leads_away: bool = False

    def to(self, relative: str) -> FollowedPath:
        """What is at a path from here; what cannot be looked at holds no link.

        Args:
            relative: one or more names with a slash between them.

        Raises:
            AdapterUnavailableError: a link was exchanged at this moment.
        """
        followed = self
        for name in relative.split("/"):
            followed = followed._step(name)
        return followed

    @property
    def directory(self) -> FollowedPath:
        """Where a file lies. Of a link to a directory, which is no file, it may be one above."""
        return replace(self, real=os.path.dirname(self.real))

    def _step(self, name: str) -> FollowedPath:
        path = os.path.join(self.real, name)
        if not os.path.islink(path):
            return FollowedPath(path, self.leads_away)
        real = real_path(path)
        return FollowedPath(real, self.leads_away or not _stays(self.real, real))


def real_path(path: str) -> str:
    """Where a path leads, without links.

    Raises:
        AdapterUnavailableError: a link was exchanged at this moment.
    """
    try:
        return os.path.realpath(path)
    except OSError as error:
        raise AdapterUnavailableError.at(
            path, "the link changed while it was looked at; try again."
        ) from error


def is_below(directory: str, path: str) -> bool:
    """Whether a real path is a real directory or lies in it."""
    return os.path.commonpath((directory, path)) == directory


def _stays(directory: str, target: str) -> bool:
    """Whether a link in a directory leads to what is its own.

    In the Hugging Face cache that is also the content of a repository's files: from
    ``<repository>/snapshots/<commit>`` to ``<repository>/blobs``.
    """
    repository, snapshots, _ = f"{directory}/".rpartition("/snapshots/")
    blobs = f"{repository}/blobs"
    return _is_inside(directory, target) or bool(snapshots and _is_inside(blobs, target))


def _is_inside(directory: str, target: str) -> bool:
    """The directory itself is not: a file's link to it would open what lies beside it."""
    return is_below(directory, target) and target != directory
