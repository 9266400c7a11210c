"""Typed access to the fields of a JSON object, where each wrong type is refused by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from loramux.errors import AdapterRefusedError
from loramux.lora.checkpoint.untrusted import shown

Value = TypeVar("Value")


MAX_PATTERN_CHARS = 2**16
"""Every key is a regular expression, and compiling a megabyte of them takes seconds."""


MAX_NUMBER = 1e30
"""A scaling from it is a float32 on its way to the device; any other would end a whole batch."""


def refused(name: str, problem: str) -> AdapterRefusedError:
    """Build the refusal of one field; the problem ends with what to do."""
    return AdapterRefusedError(f"adapter_config.json: field {shown(name)} {problem}.")


class ConfigFields:
    """The fields of ``adapter_config.json``; an absent field is PEFT's default.

    ``null`` counts as absent, except for the two numbers without which there is no scaling. A
    boolean is never taken for a number.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def flag(self, name: str) -> bool:
        value = self._values.get(name)
        if value is not None and not isinstance(value, bool):
            raise _wrong_type(name, value, "true or false")
        return bool(value)

    def text(self, name: str) -> str | None:
        value = self._values.get(name)
        if value is not None and not isinstance(value, str):
            raise _wrong_type(name, value, "a string")
        return value

    def positive_integer(self, name: str, default: int) -> int:
        return _positive_integer(name, self._values.get(name, default))

    def number(self, name: str, default: float) -> float:
        return _number(name, self._values.get(name, default))

    def positive_integers(self, name: str) -> dict[str, int]:
        return self._table(name, _positive_integer)

    def numbers(self, name: str) -> dict[str, float]:
        return self._table(name, _number)

    def names(self, name: str) -> tuple[str, ...]:
        """Read one name or a list of names; an empty name is none."""
        value = self.names_or_pattern(name)
        if isinstance(value, str):
            return (value,) if value else ()
        return value

    def names_or_pattern(self, name: str) -> str | tuple[str, ...]:
        value = self._values.get(name)
        if value is None:
            return ()
        if isinstance(value, str):
            return value
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise _wrong_type(name, value, "a string or a list of strings")

    def indices(self, name: str) -> int | tuple[int, ...] | None:
        value = self._values.get(name)
        if value is None or _is_integer(value):
            return value
        if isinstance(value, list) and all(_is_integer(item) for item in value):
            return tuple(value)
        raise _wrong_type(name, value, "an integer or a list of integers")

    def _table(self, name: str, read: Callable[[str, Any], Value]) -> dict[str, Value]:
        value = self._values.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise _wrong_type(name, value, "an object from module names to numbers")
        if sum(map(len, value)) > MAX_PATTERN_CHARS:
            raise refused(
                name,
                f"holds patterns of more than {MAX_PATTERN_CHARS} characters together; "
                "write fewer or shorter ones",
            )
        return {key: read(name, item) for key, item in value.items()}


def _positive_integer(name: str, value: Any) -> int:
    if not _is_integer(value) or not 0 < value < 2**63:  # JSON's may be of any length
        raise _wrong_type(name, value, "a positive integer")
    return int(value)


def _number(name: str, value: Any) -> float:
    try:
        number = float(value) if _is_integer(value) or isinstance(value, float) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _wrong_type(name, value, "a finite number")
    if abs(number) > MAX_NUMBER:
        raise _wrong_type(name, value, f"between -{MAX_NUMBER:g} and {MAX_NUMBER:g}")
    return number


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _wrong_type(name: str, value: Any, wanted: str) -> AdapterRefusedError:
    return refused(name, f"must be {wanted}, got {shown(value)}; correct it and try again")
