"""Reading the JSON body of a request, with one sentence for whatever is wrong with it."""

from __future__ import annotations

import json
from typing import Any, NoReturn, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from loramux.server.http.errors import bad_request

Model = TypeVar("Model", bound=BaseModel)


async def read_json(request: Request, *, any_content_type: bool = False) -> dict[str, Any]:
    """The JSON object a request carries.

    Raises:
        ApiError: 400 if it is no JSON object, or does not say that it is JSON.
    """
    if not any_content_type:
        _check_content_type(request)
    payload = _parse(await request.body())
    if not isinstance(payload, dict):
        raise bad_request("The request body must be a JSON object.")
    return payload


def validate(model: type[Model], payload: dict[str, Any]) -> Model:
    """``payload`` as ``model``; null stands for a field that is not there.

    Raises:
        ApiError: 400 naming the first field that is wrong.
    """
    try:
        return model.model_validate({k: v for k, v in payload.items() if v is not None})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise bad_request(f"{field}: {first['msg']}.", field or None) from None


def _check_content_type(request: Request) -> None:
    content_type = request.headers.get("content-type", "application/json")
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise bad_request("Unsupported Media Type: Only 'application/json' is allowed")


def _parse(body: bytes) -> Any:
    try:
        payload = json.loads(body, parse_constant=_refuse_constant)
        if b"\\ud" in body.lower():  # a lone surrogate is a string to Python, and text to nobody
            json.dumps(payload, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise bad_request(f"The request body is not valid JSON: {reason}.") from None
    return payload


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
