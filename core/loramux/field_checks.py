"""Checks of single fields; each refusal names the field, the rule and what was given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any

from loramux.errors import InvalidRequestError

MAX_STOP_STRINGS = 64
MAX_STOP_STRING_LENGTH = 1024
"""In characters. A stop string this long holds back as much text from a stream."""

MAX_LOGIT_BIAS = 100.0


def integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    """``value`` if it is an integer (not a bool) from ``low`` to ``high``."""
    if type(value) is not int:
        raise _wrong_type(name, "an integer", value)
    if value < low or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"between {low} and {high}"
        raise InvalidRequestError(f"{name} must be {bounds}, got {value}.", param=name)
    return value


def real(name: str, value: Any, low: float, high: float) -> float:
    """``value`` as a float if it is a number from ``low`` to ``high``."""
    number = _number(name, value)
    if not low <= number <= high:
        raise InvalidRequestError(
            f"{name} must be between {low:g} and {high:g}, got {value}.", param=name
        )
    return number


def positive(name: str, value: Any, high: float | None = None) -> float:
    """``value`` as a float if it is a finite number above 0 and not above ``high``."""
    number = _number(name, value)
    if not number > 0.0 or not isfinite(number) or (high is not None and number > high):
        bounds = "a finite number above 0" if high is None else f"above 0 and at most {high:g}"
        raise InvalidRequestError(f"{name} must be {bounds}, got {value}.", param=name)
    return number


def boolean(name: str, value: Any) -> None:
    if type(value) is not bool:
        raise _wrong_type(name, "true or false", value)


def mapping(name: str, value: Any) -> Mapping[str, Any]:
    """``value`` if it is a mapping whose keys are names."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise _wrong_type(name, "a mapping from names to values", value)
    return value


def json_object(name: str, example: str, text: str) -> dict[str, Any]:
    """The object that ``text`` is in JSON, such as ``example``."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InvalidRequestError(
            f"{name} must be a JSON object such as {example}, got {text!r}.", param=name
        )
    return value


def stop_strings(value: Any) -> list[str]:
    """Stop strings as a list: none, one, or several of them, none empty, none too long."""
    if value is None:
        return []
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list | tuple):
        raise _wrong_type("stop", "a string or a list of strings", value)
    if len(stops) > MAX_STOP_STRINGS:
        raise InvalidRequestError(
            f"stop must hold at most {MAX_STOP_STRINGS} strings, got {len(stops)}.", param="stop"
        )
    for stop in stops:
        _check_stop_string(stop)
    return list(stops)


def token_ids(name: str, value: Any) -> list[int]:
    """Token ids as a list without repeats, in the order given."""
    if value is None:
        return []
    if not isinstance(value, list | tuple | set | frozenset):
        raise _wrong_type(name, "a list of integers", value)
    return list(dict.fromkeys(_token_id(name, token_id) for token_id in value))


def logit_bias(value: Any) -> dict[int, float] | None:
    """Biases by token id, copied into a plain dict."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise _wrong_type("logit_bias", "a mapping from token id to bias", value)
    return {
        _token_id("logit_bias", key): real("logit_bias", bias, -MAX_LOGIT_BIAS, MAX_LOGIT_BIAS)
        for key, bias in value.items()
    }


def _check_stop_string(stop: Any) -> None:
    if not isinstance(stop, str):
        raise _wrong_type("stop", "a string or a list of strings", stop)
    if not stop:
        raise InvalidRequestError(
            "stop must not contain an empty string; leave it out.", param="stop"
        )
    if len(stop) > MAX_STOP_STRING_LENGTH:
        raise InvalidRequestError(
            f"stop must hold strings of at most {MAX_STOP_STRING_LENGTH} characters, "
            f"got one of {len(stop)}.",
            param="stop",
        )


def _token_id(name: str, value: Any) -> int:
    if type(value) is not int:
        raise _wrong_type(name, "integer token ids", value)
    if value < 0:
        raise InvalidRequestError(
            f"{name} must hold token ids of at least 0, got {value}.", param=name
        )
    return value


def _number(name: str, value: Any) -> float:
    if type(value) is float:
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong_type(name, "a number", value)
    try:
        return float(value)
    except OverflowError as error:
        raise InvalidRequestError(
            f"{name} must be a number that fits a float, got a larger one.", param=name
        ) from error


def _wrong_type(name: str, expected: str, value: Any) -> InvalidRequestError:
    shown = repr(value)
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    return InvalidRequestError(
        f"{name} must be {expected}, got {shown} of type {type(value).__name__}.", param=name
    )
