"""Which resolvers could not tell, and how often: told to the log and kept for whoever asks."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResolverFailures:
    """How one resolver has been doing since the start."""

    name: str
    total: int
    in_a_row: int
    """Since it last gave an answer; 0 if the latest look-up was answered."""


class FailureLog:
    """Counts the look-ups in which a resolver raised, hung or answered nonsense."""

    def __init__(self) -> None:
        self.total: Counter[str] = Counter()
        self._in_a_row: Counter[str] = Counter()

    def failed(self, name: str, lora_name: str, failure: Exception) -> None:
        """Note a failure; its cause, which may hold paths and addresses, is for the log alone."""
        self.total[name] += 1
        self._in_a_row[name] += 1
        log.warning(
            "resolver %s %s when asked for adapter %r; it is passed over (%d in a row)",
            name,
            failure,
            lora_name,
            self._in_a_row[name],
            exc_info=failure.__cause__,
        )

    def answered(self, name: str) -> None:
        """Note an answer, and say so where it ends a row of failures."""
        if failures := self._in_a_row.pop(name, 0):
            log.info("resolver %s answers again, after %d failures in a row", name, failures)

    def of(self, name: str) -> ResolverFailures:
        """How a resolver has been doing."""
        return ResolverFailures(name, self.total[name], self._in_a_row[name])
