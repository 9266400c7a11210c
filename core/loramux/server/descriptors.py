"""How many connections the process may hold: each takes a file descriptor, and so do files."""

from __future__ import annotations

import resource

from loramux.logger import get_logger

log = get_logger(__name__)

SPARE = 256
"""Descriptors that connections leave free: libraries and devices at the start, then the files of
the adapters that are read."""

PLENTY = 1 << 20
"""Linux's own largest. Containers may have hard limits a thousand times higher, and a child process
that closes every descriptor up to its limit would not end."""


def raise_limit() -> int:
    """Raise the soft limit of descriptors to the hard one, or to as many as are plenty.

    Returns:
        The limit now.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = PLENTY if hard == resource.RLIM_INFINITY else min(hard, PLENTY)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError) as error:  # macOS has a lower one of its own
            log.warning("the limit of %d descriptors cannot be raised: %s", soft, error)
    now = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return PLENTY if now == resource.RLIM_INFINITY else now


def most_connections() -> int:
    """How many connections fit, with the limit raised; the log says so."""
    limit = raise_limit()
    most = max(limit - SPARE, limit // 2)
    log.info("up to %d connections at a time, by the limit of %d descriptors (ulimit -n)",
             most, limit)  # fmt: skip
    return most
