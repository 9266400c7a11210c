"""One word for why a request was refused: few enough to count by."""

from __future__ import annotations

from collections.abc import Sequence

from loramux.errors import (
    AdapterNotFoundError,
    AdapterRefusedError,
    AdapterUnavailableError,
    EngineBusyError,
    EngineDeadError,
    InvalidRequestError,
    ModelNotFoundError,
)

_BY_ERROR: Sequence[tuple[type[Exception], str]] = (
    (ModelNotFoundError, "unknown_model"),
    (AdapterNotFoundError, "adapter_not_found"),
    (AdapterRefusedError, "adapter_refused"),
    (AdapterUnavailableError, "adapter_unavailable"),
    (EngineBusyError, "queue_full"),
    (EngineDeadError, "engine_ended"),
    (InvalidRequestError, "invalid_request"),
)
"""The first one that fits is the reason."""

_BY_STATUS = {
    400: "invalid_request",
    401: "no_valid_key",
    403: "not_allowed",
    404: "not_found",
    405: "not_found",
    413: "body_too_large",
    429: "too_many_requests",
    503: "unavailable",
}

REASONS = tuple(dict.fromkeys([*(word for _, word in _BY_ERROR), *_BY_STATUS.values(), "internal"]))
"""All there are; those of statuses that are named nowhere above are among them."""


def reason_of(error: Exception) -> str | None:
    """Why a request failed with this error; None where its status says it best."""
    return next((reason for kind, reason in _BY_ERROR if isinstance(error, kind)), None)


def reason_of_status(status: int) -> str | None:
    """Why an answer has a status that is no success."""
    if status < 400:
        return None
    return _BY_STATUS.get(status, "internal" if status >= 500 else "invalid_request")
