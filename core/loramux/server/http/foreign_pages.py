"""What browsers send for pages of other sites, told from what people and programs send.

Without keys whoever is on this machine may do everything, and so might a page from anywhere that is
open in a browser here. With keys a page can do no more than whoever wrote it with a program.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_address
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Scope

from loramux.server.http.errors import ApiError

ANY_ORIGIN = "*"


def let_pages_ask(app: FastAPI, origins: Collection[str]) -> None:
    """Have browsers show pages of these origins what is answered; cookies have no part in it."""
    app.add_middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=["*"],
    )


def check_site(scope: Scope, *, is_local: bool, allowed_origins: Collection[str]) -> None:
    """For a server without keys.

    Args:
        is_local: whether it listens to its own machine alone, which has no name elsewhere.
        allowed_origins: of pages that may ask.

    Raises:
        ApiError: 403 for what a page of another site asks for. What only reads is let through, as
            the browser itself keeps it from the page, unless it takes the page for this server's.
    """
    headers = Headers(scope=scope)
    if is_local and not _is_own_name(headers.get("host", "localhost")):
        # A site's name can be made to lead here; to the browser its page is then this server's.
        raise _refusal(
            "answers to the names of its own machine alone; ask 127.0.0.1 or localhost, have a "
            "proxy send one of them as Host, or start it with --api-key."
        )
    if not {ANY_ORIGIN, headers.get("origin")}.isdisjoint(allowed_origins):
        return
    if scope.get("method") not in ("GET", "HEAD") and _is_of_another_site(headers):
        raise _refusal(
            "takes nothing from pages of other sites; start it with --allowed-origins or "
            "--api-key, or send this from a program."
        )


def _is_own_name(host: str) -> bool:
    """Whether nobody else can say where a host's name leads: the machine's own, or an address."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return f".{name}".endswith(".localhost") or bool(ip_address(name))
    except ValueError:
        return False


def _is_of_another_site(headers: Headers) -> bool:
    if site := headers.get("sec-fetch-site"):
        return site not in ("none", "same-origin")
    # Browsers say that to encrypted servers and those of their own machine alone.
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2] != headers.get("host")


def _refusal(reason: str) -> ApiError:
    return ApiError(403, "PermissionDeniedError", f"This server has no keys and {reason}")
