"""Patterns from an adapter's configuration, matched against module names in bounded time.

PEFT hands these strings to ``re``, which can neither be interrupted nor bounded: one adapter could
stop a server. Here the ``regex`` package matches them, in its mode compatible with ``re`` and with
a deadline. What the two read differently, and what costs much to compile, is refused.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import regex  # type: ignore[import-untyped]

from loramux.errors import AdapterRefusedError
from loramux.lora.checkpoint.config_fields import refused
from loramux.lora.checkpoint.untrusted import shown

MAX_PATTERN_LENGTH = 4096
MAX_TABLE_ENTRIES = 4096
_MAX_REPETITIONS = 32

_LITERAL_NAME = re.compile(r"\^?[\w.-]+")
_COUNTED_REPEAT = re.compile(r"\{(\d*),?(\d*)\}")
# Python's own ``re`` takes milliseconds to compile one set that reaches beyond Latin-1.
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]|\\[uUN]")
# ``regex`` reads other braces as fuzzy matching or names, and ``[:`` as a POSIX class.
_READ_DIFFERENTLY = re.compile(r"\[:|\{(?!(?:\d+(?:,\d*)?|,\d+)\})")

Value = TypeVar("Value")


class MatchBudget:
    """The time that compiling and matching all patterns of one adapter may take together.

    A pattern that is being compiled cannot be stopped, so it may take up to half a second more.
    """

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds

    def remaining(self) -> float:
        """Return the seconds left.

        Raises:
            TimeoutError: if none are left.
        """
        seconds = self._deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        return seconds


class NamePattern:
    """A regular expression from one field of the configuration.

    Args:
        field: the field it stands in, for refusals.
        source: the expression as the user wrote it.
        budget: the time it may take.
        template: what PEFT puts round it.

    Raises:
        AdapterRefusedError: if PEFT could not compile it, or if it is too long or too costly.
    """

    def __init__(self, field: str, source: str, budget: MatchBudget, template: str = "{}") -> None:
        self._field = field
        self._source = source
        self._budget = budget
        _check_cost(field, source)
        self._compiled = self._compile(template.replace("{}", source, 1))

    def fullmatch(self, name: str) -> bool:
        return self._run(self._compiled.fullmatch, name) is not None

    def match(self, name: str) -> dict[str, str | None] | None:
        """Match at the start of the name and return the named groups, or None."""
        found = self._run(self._compiled.match, name)
        return None if found is None else found.groupdict()

    def _compile(self, pattern: str) -> Any:
        try:
            self._budget.remaining()
            re.compile(pattern)
            return regex.compile(pattern, flags=regex.V0, cache_pattern=False)
        except TimeoutError as error:
            raise self._too_slow() from error
        except (re.error, regex.error, OverflowError, RecursionError) as error:
            # The reason quotes the pattern, of any length and with its line breaks.
            raise refused(
                self._field,
                f"holds the pattern {shown(self._source)}, which does not compile "
                f"({shown(str(error))}); correct it",
            ) from error

    def _run(self, method: Any, name: str) -> Any:
        try:
            return method(name, timeout=self._budget.remaining())
        except TimeoutError as error:
            raise self._too_slow() from error

    def _too_slow(self) -> AdapterRefusedError:
        return refused(
            self._field,
            f"holds the pattern {shown(self._source)}, which takes too long to match; "
            "simplify it or list the module names",
        )


class LiteralKey:
    """A key of ``rank_pattern`` without special characters, apart from the dots in it.

    It matches what ``re.match(rf"(.*\\.)?({key})$", name)`` does, dots standing for any character,
    at the speed that one key for every layer of a model needs.
    """

    def __init__(self, key: str) -> None:
        self._anchored = key.startswith("^")
        self._text = key.removeprefix("^")
        self._ending = self._text.rpartition(".")[2]

    def matches(self, name: str) -> bool:
        start = len(name) - len(self._text)
        if start < 0 or not name.endswith(self._ending):
            return False
        if start and (self._anchored or name[start - 1] != "."):
            return False
        return all(a in (".", b) for a, b in zip(self._text, name[start:], strict=True))


class RegexKey:
    """A key of ``rank_pattern`` that is a regular expression."""

    def __init__(self, field: str, key: str, budget: MatchBudget) -> None:
        self._pattern = NamePattern(field, key, budget, r"(.*\.)?({})$")

    def matches(self, name: str) -> bool:
        return self._pattern.match(name) is not None


class PatternTable(Generic[Value]):
    """PEFT's ``rank_pattern`` or ``alpha_pattern``: the first key that matches decides."""

    def __init__(self, field: str, table: Mapping[str, Value], budget: MatchBudget) -> None:
        if len(table) > MAX_TABLE_ENTRIES:
            raise refused(field, f"has more than {MAX_TABLE_ENTRIES} entries; use patterns")
        self._entries = [(_key(field, key, budget), value) for key, value in table.items()]

    def get(self, name: str, default: Value) -> Value:
        for key, value in self._entries:
            if key.matches(name):
                return value
        return default


def _key(field: str, key: str, budget: MatchBudget) -> LiteralKey | RegexKey:
    return LiteralKey(key) if _LITERAL_NAME.fullmatch(key) else RegexKey(field, key, budget)


def _check_cost(field: str, source: str) -> None:
    """Refuse what is dear to compile, or what ``regex`` reads differently from ``re``."""
    if len(source) > MAX_PATTERN_LENGTH:
        problem = f"is longer than {MAX_PATTERN_LENGTH} characters; list the module names"
    elif _BEYOND_ASCII.search(source):
        problem = "goes beyond ASCII; list the module names"
    elif _READ_DIFFERENTLY.search(source):
        problem = "has a brace or a class that can be read in two ways; write it in another way"
    elif _repetitions(source) > _MAX_REPETITIONS:
        problem = "repeats its parts too often; use * or +"
    else:
        return
    raise refused(field, f"holds the pattern {shown(source)}, which {problem}")


def _repetitions(source: str) -> int:
    """Return how often a part may be repeated by counts, if all of them were nested."""
    return math.prod(
        max(1, _count(low), _count(high)) for low, high in _COUNTED_REPEAT.findall(source)
    )


def _count(digits: str) -> int:
    return int(digits[:4] or 1)
