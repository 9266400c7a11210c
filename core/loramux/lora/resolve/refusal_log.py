"""Which adapters were refused, and why: told to the log, and not again and again."""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from loramux.errors import AdapterRefusedError

log = logging.getLogger(__name__)

SILENT_SECONDS = 60.0
"""How long the same refusal is not told again, because a client may ask many times a second."""

MAX_REMEMBERED = 1024


class RefusalLog:
    """Notes each adapter that was found and cannot be served, in one line without who asked."""

    def __init__(self) -> None:
        self._told: OrderedDict[tuple[str, str], float] = OrderedDict()

    @contextmanager
    def noting(self, name: str) -> Iterator[None]:
        """Note what is refused inside, and let it through."""
        try:
            yield
        except AdapterRefusedError as error:
            self._refused(name, " ".join(str(error).split()))
            raise

    def _refused(self, name: str, reason: str) -> None:
        now = time.monotonic()
        if now - self._told.get((name, reason), -math.inf) < SILENT_SECONDS:
            return
        self._told[name, reason] = now
        self._told.move_to_end((name, reason))
        if len(self._told) > MAX_REMEMBERED:
            self._told.popitem(last=False)
        log.warning("adapter %r is refused: %s", name, reason)
