"""Adapters on a web server, through fsspec's HTTP file system and its aiohttp session.

The requests are made here and not by ``HTTPFileSystem.info`` and ``cat_file``: those take every
error for a missing file and a whole body for the part that was asked for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import aiohttp
import fsspec
from yarl import URL

from loramux_resolvers.store import ObjectStore, StoredObject, unpinnable
from loramux_resolvers.store_failure import (
    StoreFailure,
    changed,
    described_by,
    failure_of,
    failure_of_status,
    gone,
    truncated,
)

CONNECT_SECONDS = 5
SILENCE_SECONDS = 15
"""How long a server may send nothing."""

REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 5


class HttpStore(ObjectStore):
    """A web server's directory.

    A file is pinned by its ETag, or by its time of modification, which HTTP gives in whole
    seconds. A server without range requests works; its files are then held in memory as a whole.

    Args:
        uri: address of the directory.
    """

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS
        )
        settings = fsspec.config.conf.get(uri.partition(":")[0], {})
        self._filesystem = fsspec.filesystem(
            "http",
            skip_instance_cache=True,
            client_kwargs={"timeout": timeout, **settings.get("client_kwargs", {})},
        )

    def quote(self, name: str) -> str:
        """Percent-encode, so that ``?`` and ``#`` are parts of the name."""
        return quote(name)

    async def stat(self, path: str) -> StoredObject | None:
        """Ask for the first byte: unlike HEAD, every server answers this as it answers reads."""
        async with self._answer(path, {"Range": "bytes=0-0"}) as answer:
            if answer.status in (404, 410):
                return None
            if answer.status not in (200, 206, 416):
                raise failure_of_status(answer.status)
            await answer.content.read(1)  # what is read to its end leaves a connection to use again
            return _stored_object(path, answer)

    async def read(self, item: StoredObject, start: int, end: int) -> bytes:
        """See ``ObjectStore.read``; checked against the ETag of the very answer."""
        headers = {"Range": f"bytes={start}-{end - 1}"} if item.ranged else {}
        if item.etag and not item.etag.startswith("W/"):
            headers["If-Match"] = f'"{item.etag}"'
        async with self._answer(item.path, headers) as answer:
            if answer.status in (404, 410):
                raise gone()
            if answer.status != (206 if item.ranged else 200):
                raise _unexpected(answer.status)
            if _etag(answer) != item.etag:
                raise changed()
            return await _exactly(answer, end - start)

    @asynccontextmanager
    async def _answer(
        self, url: str, headers: dict[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to a GET request, which is closed in the end."""
        options: dict[str, Any] = {**self._filesystem.kwargs, "allow_redirects": False}
        headers = {**options.pop("headers", {}), "Accept-Encoding": "identity", **headers}
        with described_by(failure_of):
            session = await self._filesystem.set_session()
            address = self._filesystem.encode_url(url)
            for _ in range(MAX_REDIRECTS + 1):
                async with session.get(address, headers=headers, **options) as answer:
                    if answer.status not in REDIRECTS:
                        yield answer
                        return
                    address = _target(answer)
            raise StoreFailure("the server redirects again and again", "correct its configuration")


def _target(answer: aiohttp.ClientResponse) -> URL:
    """Where a redirect leads: nowhere but to the server that the operator has named."""
    try:
        target = answer.url.join(URL(answer.headers.get("Location", "")))
        is_same_server = target.origin() == answer.url.origin()
    except ValueError:
        is_same_server = False
    if not is_same_server:
        raise StoreFailure(
            f"the server redirects to another one (HTTP {answer.status})",
            "configure the address that it leads to",
        )
    return target


def _stored_object(path: str, answer: aiohttp.ClientResponse) -> StoredObject:
    etag, modified = _etag(answer), answer.headers.get("Last-Modified", "")
    if not etag and not modified:
        raise unpinnable()
    revision = f"etag:{etag}" if etag else f"modified:{modified}"
    return StoredObject(path, _size(answer), revision, etag, ranged=answer.status != 200)


def _size(answer: aiohttp.ClientResponse) -> int:
    text = answer.headers.get("Content-Length", "")
    if answer.status != 200:
        text = answer.headers.get("Content-Range", "").rpartition("/")[2]
    if not text.isdecimal():
        raise StoreFailure("the server does not say how long the file is", "use one that does")
    return int(text)


def _etag(answer: aiohttp.ClientResponse) -> str:
    return answer.headers.get("ETag", "").replace('"', "")


async def _exactly(answer: aiohttp.ClientResponse, length: int) -> bytes:
    data = bytearray()
    async for chunk in answer.content.iter_any():
        data += chunk
        if len(data) > length:
            break
    if len(data) != length:
        raise truncated(len(data), length)
    return bytes(data)


def _unexpected(status: int) -> StoreFailure:
    if status < 400:
        return StoreFailure(f"the server answered a part of a file with HTTP {status}")
    return failure_of_status(status)
