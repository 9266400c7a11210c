"""JSON of answers that hold up to millions of numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from loramux.server.http.events import as_json

ITEMS_AT_ONCE = 64
"""Of a list: some milliseconds where each is 20 log probabilities with their tokens."""


def json_with_list(head: Mapping[str, Any], name: str, items: Iterable[Mapping[str, Any]]) -> bytes:
    """A JSON object that ends with a list of objects, whose own lists are written in parts.

    ``json`` keeps the interpreter from every other thread until it is done, seconds for a thousand
    embeddings or the log probabilities of a long prompt.

    Args:
        head: the other members; not empty.
    """
    body = in_parts(head).removesuffix("}")
    return f"{body},{as_json(name)}:[{','.join(map(in_parts, items))}]}}".encode()


def in_parts(value: Any) -> str:
    """JSON whose lists, those within objects too, are written a few items at a time."""
    if isinstance(value, Mapping):
        members = (f"{as_json(name)}:{in_parts(member)}" for name, member in value.items())
        return f"{{{','.join(members)}}}"
    if isinstance(value, list):
        starts = range(0, len(value), ITEMS_AT_ONCE)
        parts = (as_json(value[start : start + ITEMS_AT_ONCE])[1:-1] for start in starts)
        return f"[{','.join(parts)}]"
    return as_json(value)
