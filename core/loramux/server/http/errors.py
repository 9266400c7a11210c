"""From an exception to an HTTP status and the error body OpenAI clients read."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from loramux.errors import (
    AdapterError,
    AdapterNotFoundError,
    AdapterRefusedError,
    AdapterUnavailableError,
    EngineBusyError,
    InvalidRequestError,
    LoramuxError,
    ModelNotFoundError,
)
from loramux.server.access.caller import access_of
from loramux.server.access.rules import RUNTIME_UPDATES_VARIABLE
from loramux.server.metrics.record import record_of
from loramux.server.printable import printable

log = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = "1"
"""What a client is asked to wait when trying again may help."""


@dataclass
class ApiError(Exception):
    """An answer that is not 200. ``kind`` is vLLM's word for it, shown as ``error.type``."""

    status: int
    kind: str
    message: str
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """The error object of the OpenAI API."""
        error = {
            "message": printable(self.message),
            "type": self.kind,
            "param": self.param,
            "code": self.status,
        }
        return {"error": error}

    def response(self) -> JSONResponse:
        """The answer as it is sent."""
        return JSONResponse(self.body(), self.status, dict(self.headers))


def bad_request(message: str, param: str | None = None) -> ApiError:
    """400, and the field that is wrong."""
    return ApiError(400, "BadRequestError", message, param)


def unexpected_error(request_id: str) -> ApiError:
    """What a client learns of an exception nobody foresaw: where to look, and nothing else."""
    return ApiError(
        500,
        "InternalServerError",
        f"The server failed on this request; its log has the reason under request id {request_id}.",
    )


_ANSWERS: Sequence[tuple[type[LoramuxError], int, str]] = (
    (InvalidRequestError, 400, "BadRequestError"),
    (ModelNotFoundError, 404, "NotFoundError"),
    (AdapterNotFoundError, 404, "NotFoundError"),
    (AdapterRefusedError, 400, "BadRequestError"),
    (AdapterUnavailableError, 503, "ServiceUnavailableError"),
    (EngineBusyError, 429, "RateLimitError"),
    (LoramuxError, 500, "InternalServerError"),
)
"""The first one that fits is the answer."""


def as_api_error(error: LoramuxError, request: Request | None = None) -> ApiError:
    """The answer for an error that loramux raises on purpose.

    Where an adapter lies is told to admins only, and to nobody if it is not known who asks.
    """
    status, kind = next((code, kind) for cls, code, kind in _ANSWERS if isinstance(error, cls))
    headers = {"retry-after": RETRY_AFTER_SECONDS} if status in (429, 503) else {}
    return ApiError(status, kind, _sentence(error, request), _param_of(error), headers)


def _sentence(error: LoramuxError, request: Request | None) -> str:
    if not isinstance(error, AdapterError) or error.reason is None:
        return str(error)
    if request is not None and access_of(request).is_admin:
        return str(error)
    log.info("a client is told this without the place: %s", error)
    return error.without_place(record_of(request).adapter if request is not None else None)


def _param_of(error: LoramuxError) -> str | None:
    if isinstance(error, ModelNotFoundError | AdapterError):
        return "model"
    return error.param if isinstance(error, InvalidRequestError) else None


@contextmanager
def fields_as(names: Mapping[str, str]) -> Iterator[None]:
    """What tokenizer and engine refuse is told by the names that the fields have in the request.

    Args:
        names: the engine's to the request's.
    """
    try:
        yield
    except InvalidRequestError as error:
        if error.param is None or error.param not in names:
            raise
        # Another one, as one error may be told to several requests.
        raise InvalidRequestError(str(error), names[error.param]) from error


async def answer_api_error(request: Request, error: Exception) -> JSONResponse:
    """FastAPI's handler for :class:`ApiError`."""
    assert isinstance(error, ApiError)
    return error.response()


async def answer_loramux_error(request: Request, error: Exception) -> JSONResponse:
    """FastAPI's handler for :class:`LoramuxError`."""
    assert isinstance(error, LoramuxError)
    record_of(request).refuse(error)
    return as_api_error(error, request).response()


async def answer_routing_error(request: Request, error: Exception) -> JSONResponse:
    """FastAPI's handler for routes and methods that do not exist."""
    assert isinstance(error, HTTPException)
    route = f"{request.method} {request.url.path}"
    if error.status_code == 404:
        answer = ApiError(404, "NotFoundError", f"There is no {route}; {_way_out(request)}.")
    elif error.status_code == 405:
        of_one_route = (error.headers or {}).get("Allow", "another method")
        allowed = ", ".join(request.app.methods_of(request.scope)) or of_one_route
        answer = ApiError(405, "MethodNotAllowedError", f"There is no {route}; use {allowed}.")
        answer.headers = {"Allow": allowed}
        return answer.response()
    else:
        answer = ApiError(error.status_code, "HTTPError", str(error.detail))
    answer.headers = error.headers or {}
    return answer.response()


def _way_out(request: Request) -> str:
    """Which routes could be opened is told to admins only."""
    if access_of(request).is_admin and request.app.is_closed(request.scope):
        return f"set {RUNTIME_UPDATES_VARIABLE}=1 and start the server again to have it"
    return "/openapi.json has what there is"
