"""Environment variables, read when they are needed and never at import.

Every function takes the variable's full name and the value that stands for an unset or empty one.
"""

from __future__ import annotations

import math
import os

from loramux.errors import LoramuxError

ADAPTER_DIRECTORY_VARIABLE = "LORAMUX_LORA_RESOLVER_CACHE_DIR"
"""Where the filesystem resolver looks, and what looks at its adapters without a server."""

ADAPTER_REPOSITORIES_VARIABLE = "LORAMUX_LORA_RESOLVER_HF_REPO_LIST"
"""Where the Hub resolver looks, and what may be loaded by path under the names it has there."""

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


class EnvironmentVariableError(LoramuxError, ValueError):
    """An environment variable holds a value that cannot be read as what it should be."""

    def __init__(self, variable: str, value: str, expected: str) -> None:
        super().__init__(f"{variable} is {value!r}; set it to {expected}, or unset it.")
        self.variable = variable


def read_text(variable: str, default: str | None = None) -> str | None:
    """The value without blanks around it."""
    return os.environ.get(variable, "").strip() or default


def read_bool(variable: str, default: bool = False) -> bool:
    """A yes (``1 true yes on``) or no (``0 false no off``), in capitals or not.

    Raises:
        EnvironmentVariableError: if the value is neither.
    """
    text = (read_text(variable) or str(default)).lower()
    if text not in _TRUE | _FALSE:
        raise EnvironmentVariableError(variable, text, "1 or 0")
    return text in _TRUE


def read_int(variable: str, default: int, *, minimum: int = 0) -> int:
    """A whole number of at least ``minimum``.

    Raises:
        EnvironmentVariableError: if the value is none.
    """
    text = read_text(variable)
    if text is None:
        return default
    try:
        number = int(text)
    except ValueError:
        number = minimum - 1
    if number < minimum:
        raise EnvironmentVariableError(variable, text, f"a whole number of at least {minimum}")
    return number


def read_seconds(variable: str, default: float, *, zero_allowed: bool = False) -> float:
    """A finite number of seconds, more than none unless ``zero_allowed``.

    Raises:
        EnvironmentVariableError: if the value is none.
    """
    text = read_text(variable)
    if text is None:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if math.isfinite(seconds) and (seconds > 0 or (zero_allowed and seconds == 0)):
        return seconds
    least = "0 or more" if zero_allowed else "more than 0"
    raise EnvironmentVariableError(variable, text, f"a number of seconds, {least}")


def read_list(variable: str) -> list[str]:
    """The entries of a comma-separated list, without blanks and empty ones."""
    entries = (read_text(variable) or "").split(",")
    return [entry.strip() for entry in entries if entry.strip()]
