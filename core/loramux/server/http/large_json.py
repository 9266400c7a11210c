"""JSON of answers that hold up to millions of numbers, written and sent a little at a time.

``json`` keeps the interpreter from every other thread until it is done, seconds for a thousand
embeddings or the log probabilities of a long prompt; to join and to encode hundreds of megabytes
takes as long as that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from loramux.server.http.events import as_json

ITEMS_AT_ONCE = 64
"""Of a list: some milliseconds where each is 20 log probabilities with their tokens."""

PIECE_CHARS = 2**17
"""Joined, encoded and sent at once, if not more come with one part."""


class PiecesResponse(Response):
    """JSON that is there in pieces; between two of them, the event loop turns to others."""

    media_type = "application/json"

    def __init__(self, pieces: Sequence[bytes], headers: Mapping[str, str]) -> None:
        length = str(sum(map(len, pieces)))
        super().__init__(headers={**headers, "content-length": length})
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        for piece in self._pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body"})


def json_with_list(head: Mapping[str, Any], name: str, items: Iterable[Any]) -> Iterator[bytes]:
    """Pieces of a JSON object that ends with a list, of which any item may be long.

    Args:
        head: the other members; not empty.
    """
    return in_pieces(_with_list(head, name, items))


def in_pieces(parts: Iterable[str]) -> Iterator[bytes]:
    """A text that comes in parts, encoded in pieces of some ``PIECE_CHARS``."""
    waiting: list[str] = []
    length = 0
    for part in parts:
        waiting.append(part)
        length += len(part)
        if length >= PIECE_CHARS:
            yield "".join(waiting).encode()
            waiting, length = [], 0
    if waiting:
        yield "".join(waiting).encode()


def parts_of(value: Any) -> Iterator[str]:
    """JSON whose lists, those within objects too, are written a few items at a time."""
    if isinstance(value, Mapping):
        yield "{"
        yield from _members(value)
        yield "}"
    elif isinstance(value, list):
        yield "["
        for start in range(0, len(value), ITEMS_AT_ONCE):
            yield ("," if start else "") + as_json(value[start : start + ITEMS_AT_ONCE])[1:-1]
        yield "]"
    else:
        yield as_json(value)


def _with_list(head: Mapping[str, Any], name: str, items: Iterable[Any]) -> Iterator[str]:
    yield "{"
    yield from _members(head)
    yield f",{as_json(name)}:["
    for index, item in enumerate(items):
        if index:
            yield ","
        yield from parts_of(item)
    yield "]}"


def _members(value: Mapping[str, Any]) -> Iterator[str]:
    for index, (name, member) in enumerate(value.items()):
        yield f"{',' if index else ''}{as_json(name)}:"
        yield from parts_of(member)
