"""The lock on routes that are for operators, on the routes themselves."""

from __future__ import annotations

from fastapi import Request

from loramux.server.access.caller import access_of
from loramux.server.http.errors import ApiError


async def require_admin(request: Request) -> None:
    """Of routes for the role ``admin``: they stay locked however a path came to lead there.

    Raises:
        ApiError: 403 for everybody else.
    """
    if not access_of(request).is_admin:
        raise no_admin()


def no_admin() -> ApiError:
    """What is answered to who may not."""
    return ApiError(
        403, "PermissionDeniedError", "This needs a key of the role admin; ask the operator."
    )
