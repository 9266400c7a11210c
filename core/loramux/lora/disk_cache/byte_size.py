"""Sizes as people write them in environment variables."""

from __future__ import annotations

import re

from loramux import env

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(I?)B?|B)?", re.IGNORECASE)


def read_byte_size(variable: str, default: int) -> int:
    """The number of bytes in a variable: ``10GiB``, ``500 MB``, ``1.5G`` (of 1000), ``4096``.

    Raises:
        EnvironmentVariableError: if the value is no such size, or less than one byte.
    """
    text = env.read_text(variable)
    if text is None:
        return default
    match = _SIZE.fullmatch(text)
    size = 0 if match is None else _bytes_of(*match.groups(""))
    if size < 1:
        raise env.EnvironmentVariableError(variable, text, "a size such as 10GiB or 500MB")
    return size


def _bytes_of(number: str, prefix: str, binary: str) -> int:
    exponent = " KMGT".index(prefix.upper() or " ")
    return int(float(number) * (1024 if binary else 1000) ** exponent)
