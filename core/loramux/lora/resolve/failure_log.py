"""Which resolvers could not tell, and how often: told to the log and kept for whoever asks."""

from __future__ import annotations

import logging
import traceback
from collections import Counter
from dataclasses import dataclass
from textwrap import shorten

from loramux.errors import AdapterUnavailableError

log = logging.getLogger(__name__)

MOST_LETTERS = 500
"""Of an error's message, in a line of the log."""


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
        """Note a failure; its cause, which may hold paths and addresses, is for the log alone.

        A traceback comes with the first failure in a row alone, unless the cause is a sentence that
        says all: what tenants can bring about again and again must not fill the log.
        """
        self.total[name] += 1
        self._in_a_row[name] += 1
        cause = failure.__cause__
        is_new = self._in_a_row[name] == 1 and not isinstance(cause, AdapterUnavailableError)
        log.warning(
            "resolver %s %s when asked for adapter %r%s; it is passed over (%d in a row)",
            name,
            failure,
            lora_name,
            "" if cause is None else _in_brackets(cause),
            self._in_a_row[name],
            exc_info=cause if is_new else None,
        )

    def answered(self, name: str) -> None:
        """Note an answer, and say so where it ends a row of failures."""
        if failures := self._in_a_row.pop(name, 0):
            log.info("resolver %s answers again, after %d failures in a row", name, failures)

    def of(self, name: str) -> ResolverFailures:
        """How a resolver has been doing."""
        return ResolverFailures(name, self.total[name], self._in_a_row[name])


def _in_brackets(cause: BaseException) -> str:
    """What an error says, in one line; nothing if it says nothing."""
    # A stranger's __str__ may raise, which traceback bears.
    _, _, message = "".join(traceback.format_exception_only(cause)).partition(": ")
    return f" ({shorten(message, MOST_LETTERS)})" if message.strip() else ""
