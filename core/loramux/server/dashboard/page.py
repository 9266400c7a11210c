"""The page's own files: the same for everybody, so they need no key, and no data is in them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

MEDIA_TYPES = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}

HEADERS = {
    "content-security-policy": (
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}


@dataclass(frozen=True)
class PageFile:
    """One file, as it is sent, and the path it is at, which counts as its route."""

    path: str
    content: bytes
    media_type: str

    @property
    def etag(self) -> str:
        """Another one for other content."""
        return f'"{hashlib.sha256(self.content).hexdigest()[:16]}"'

    def response(self, known_etag: str | None) -> Response:
        """304 to who has it already, by the entity tag that was sent along."""
        headers = {**HEADERS, "etag": self.etag}
        if known_etag == self.etag:
            return Response(status_code=304, headers=headers)
        return Response(self.content, headers=headers, media_type=self.media_type)


class PageMiddleware:
    """Answers for the page's files and nothing else; stands outside the check of the API key."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._files = dict(_page_files())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        file = self._files.get(scope["path"]) if scope["type"] == "http" else None
        if file is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = file
        if scope["method"] in ("GET", "HEAD"):
            known_etag = Headers(scope=scope).get("if-none-match")
            await file.response(known_etag)(scope, receive, send)
        else:
            refusal = PlainTextResponse("There is only GET here.", 405, {"allow": "GET, HEAD"})
            await refusal(scope, receive, send)


def _page_files() -> Iterator[tuple[str, PageFile]]:
    for file in files(__package__).joinpath("static").iterdir():
        media_type = MEDIA_TYPES[file.name.rpartition(".")[2]]
        path = "/" if file.name == "index.html" else f"/dashboard/{file.name}"
        yield path, PageFile(path, file.read_bytes(), media_type)
