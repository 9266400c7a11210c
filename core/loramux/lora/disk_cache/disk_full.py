"""Errors that a full disk has led to."""

from __future__ import annotations

import errno
from collections.abc import Iterator

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Of ``OSError.errno``; the second is a quota's."""


def is_disk_full(error: BaseException) -> bool:
    """Whether a full disk is what led to an error."""
    return any(isinstance(cause, OSError) and cause.errno in DISK_FULL for cause in causes(error))


def causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and what led to it, outermost first."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__
