"""Reading text that anyone may have written: strict JSON in, short quotations out."""

from __future__ import annotations

import json
import reprlib
from collections import Counter
from collections.abc import Collection
from typing import Any

from loramux.errors import AdapterRefusedError

_QUOTE = reprlib.Repr()
_QUOTE.maxstring = _QUOTE.maxother = _QUOTE.maxlong = 100
_QUOTE.maxlist = _QUOTE.maxdict = 4


def parse_object(text: bytes, what: str) -> dict[str, Any]:
    """Parse one JSON object, refusing what different parsers read differently.

    Duplicate keys and ``NaN`` or ``Infinity`` literals are refused, because a second reader (the
    trainer, a scanner) could see another value than this one.

    Args:
        text: the JSON document in UTF-8.
        what: how to call the document in the refusal, e.g. its file name.

    Raises:
        AdapterRefusedError: if the text is not one well-formed object.
    """
    try:
        value = json.loads(
            text.decode(), object_pairs_hook=_unique_keys, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as error:
        raise AdapterRefusedError(
            f"{what} is not valid JSON ({error}); save the adapter again."
        ) from error
    if not isinstance(value, dict):
        raise AdapterRefusedError(
            f"{what} must hold a JSON object, got {shown(value)}; save the adapter again."
        )
    return value


def shown(value: object) -> str:
    """Quote a value of unknown size and content in a message."""
    return _QUOTE.repr(value)


def first_of(names: Collection[str]) -> str:
    """Name the first of several things and count the others."""
    first, others = next(iter(names)), len(names) - 1
    return f"{shown(first)} and {others} more" if others else shown(first)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, count in counts.items() if count > 1)
        raise ValueError(f"the key {shown(twice)} appears twice")
    return values


def _refuse_constant(literal: str) -> float:
    raise ValueError(f"{literal} is not a JSON number")
