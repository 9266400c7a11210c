"""Reading the JSON body of a request, with one sentence for whatever is wrong with it."""

from __future__ import annotations

import asyncio
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json

from loramux.errors import InvalidRequestError
from loramux.server.http.errors import bad_request
from loramux.server.http.json_structure import may_hold_more, num_parts

Model = TypeVar("Model", bound=BaseModel)
Parsed = TypeVar("Parsed")

LARGE_BODY_BYTES = 64 * 1024
"""Longer bodies are parsed on a thread; one of this length takes half a millisecond at most."""

MAX_FIELDS = 1024
"""Many times as many as there are; what nobody knows is looked at, too."""

MAX_PARTS = 2**18
"""Arrays, objects and members of objects; more than the longest chats have, and parsed within a
tenth of a second."""

_large_bodies = ThreadPoolExecutor(2, thread_name_prefix="loramux-body")
"""Its own, so that large bodies wait for each other and nothing else waits for them."""


async def read_json(
    request: Request, parse: Callable[[dict[str, Any]], Parsed], *, any_content_type: bool = False
) -> Parsed:
    """What ``parse`` makes of the JSON object a request carries.

    A large body is read on a thread, and ``parse`` is the place for whatever takes longer the
    longer the body is: streams go on while it checks the fields. They wait while ``from_json``
    runs, which does not let go of Python's lock: up to 50 ms for a text of 8 MiB, 140 ms for token
    ids of that length, and half as much for what holds ``MAX_PARTS``.

    Raises:
        ApiError: 400 if it is no JSON object, or does not say that it is JSON.
        Exception: whatever ``parse`` raises.
    """
    _check_content_encoding(request)
    if not any_content_type:
        _check_content_type(request)
    body = await request.body()
    if len(body) <= LARGE_BODY_BYTES:
        return parse(_object(body))
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_large_bodies, lambda: parse(_object(body)))


def validate(model: type[Model], payload: dict[str, Any]) -> Model:
    """``payload`` as ``model``; null stands for a field that is not there.

    As in OpenAI's API, ``"1"`` is no number and ``1`` no boolean.

    Raises:
        ApiError: 400 naming the first field that is wrong.
    """
    try:
        given = {k: v for k, v in payload.items() if v is not None}
        return model.model_validate(given, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, _path_in(payload, first)))
        message = first["msg"].removeprefix("Value error, ").rstrip(".")
        where = f"{field}: " if field else ""
        cause = first.get("ctx", {}).get("error")
        param = cause.param if isinstance(cause, InvalidRequestError) else field
        raise bad_request(f"{where}{message}.", param or None) from None


def _path_in(payload: Any, error: ErrorDetails) -> Iterator[int | str]:
    """Where in a body an error is; pydantic goes on with the types that it tried on a value there.

    What is missing is not there to be found.
    """
    for part in error["loc"]:
        if error["type"] != "missing":
            try:
                payload = payload[part]
            except (LookupError, TypeError):
                return
        yield part


def _check_content_encoding(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity").strip()
    if encoding.lower() != "identity":
        raise bad_request(
            f"The request body comes with Content-Encoding {encoding!r}, which is not read; send "
            "it as it is."
        )


def _check_content_type(request: Request) -> None:
    content_type = request.headers.get("content-type", "application/json")
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise bad_request("Unsupported Media Type: Only 'application/json' is allowed")


def _object(body: bytes) -> dict[str, Any]:
    """By pydantic's reader, ten times as fast as ``json`` for most bodies. It takes nothing that is
    nested more than 200 deep, which chat templates and whoever else walks over it could not.
    """
    text = body.removeprefix(BOM_UTF8)
    if may_hold_more(text, MAX_PARTS) and (num := num_parts(text)) > MAX_PARTS:
        raise bad_request(
            f"The request body holds {num} arrays, objects and members of objects, and at most "
            f"{MAX_PARTS} are read; send several requests."
        )
    try:
        payload = from_json(text, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        raise bad_request(f"The request body is not valid JSON: {error}.") from None
    if not isinstance(payload, dict):
        raise bad_request("The request body must be a JSON object.")
    if len(payload) > MAX_FIELDS:
        raise bad_request(
            f"The request body has {len(payload)} fields, and at most {MAX_FIELDS} are read; leave "
            "out those that nobody knows."
        )
    return payload
