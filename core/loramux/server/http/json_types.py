"""Types of JSON that are not quite Python's."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

MAX_EXACT = 2.0**53
"""From here on, a number with a point no longer tells which whole number is meant."""


def _whole(value: Any) -> Any:
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) < MAX_EXACT
    return int(value) if is_whole else value


WHOLE = BeforeValidator(_whole)
"""JSON does not tell 1.0 from 1. To be written after an integer's limits."""

Integer = Annotated[int, WHOLE]


def within(**limits: float) -> Any:
    """Limits of a field that are documented here, and kept by whoever uses the field."""
    return Field(json_schema_extra=dict(limits))


def _number_of_key(key: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,18}", key):
        raise ValueError('its name must be a token id, such as "42"')
    return int(key)


IntegerKey = Annotated[int, BeforeValidator(_number_of_key)]
"""A key of an object, which JSON can only write as a string."""
