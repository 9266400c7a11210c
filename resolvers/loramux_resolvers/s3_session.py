"""How requests of S3's client go out: to the endpoint alone, and with a bound on what errors say.

aiobotocore's own session follows redirects, which botocore does not, and reads all of an error.
"""

from __future__ import annotations

from typing import Any

import aiohttp
from aiobotocore.httpsession import AIOHTTPSession  # type: ignore[import-untyped]

MAX_ERROR_BYTES = 2**20

_REGION = "x-amz-bucket-region"
_NOT_OF_S3 = {302, 303, 307, 308}
"""Redirects, unless they name the bucket's region: botocore would ask for that again and again."""


class DirectSession(AIOHTTPSession):  # type: ignore[misc]  # which has no types
    """aiobotocore's session; a redirect is an answer like any other.

    To be followed it would have to be signed anew, and it may lead to this machine's own network.
    """

    async def _get_session(self, proxy_url: str | None) -> Any:
        return _Direct(await super()._get_session(proxy_url))


class _Direct:
    """As much of aiohttp's session as aiobotocore asks for."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def request(self, method: str, **options: Any) -> aiohttp.ClientResponse | _Error:
        answer = await self._session.request(method, **{**options, "allow_redirects": False})
        if answer.status in _NOT_OF_S3 and _REGION not in answer.headers:
            answer.close()
            raise aiohttp.ClientConnectionError(f"a redirect (HTTP {answer.status})")
        return answer if answer.status < 300 else _Error(answer)


class _Error:
    """As much of aiohttp's response as aiobotocore asks for where it is no success."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer
        self.url, self.status = answer.url, answer.status
        self.headers, self.raw_headers = answer.headers, answer.raw_headers

    async def read(self) -> bytes:
        body = bytearray()
        async with self._answer as answer:
            async for chunk in answer.content.iter_any():
                body += chunk
                if len(body) > MAX_ERROR_BYTES:
                    answer.close()
                    raise aiohttp.ClientPayloadError("an error's description has no end")
        return bytes(body)
