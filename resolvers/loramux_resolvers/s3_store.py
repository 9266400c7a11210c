"""Adapters in S3 and what speaks its protocol, through s3fs and its ordinary configuration.

Requests go out under exact keys: s3fs's own ``info`` and ``cat_file`` would take ``?versionId=``
in a key for an instruction, and do not pin what they read.
"""

from __future__ import annotations

from typing import Any

import fsspec
import s3fs
from botocore.exceptions import BotoCoreError, HTTPClientError
from botocore.exceptions import ConnectionError as NoConnectionError
from botocore.parsers import ResponseParserError

from loramux_resolvers.s3_session import DirectSession
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

MAX_KEY_BYTES = 1024

CLIENT_CONFIG: dict[str, Any] = {
    "connect_timeout": 5,
    "read_timeout": 15,
    "max_pool_connections": 64,
    # Attempts are counted here, in one place; botocore's and s3fs's own would multiply.
    "retries": {"total_max_attempts": 1},
    # Some servers send the whole object's checksum with a part of it.
    "response_checksum_validation": "when_required",
    "http_session_cls": DirectSession,
}
"""Settings of botocore, below what fsspec's configuration says (``FSSPEC_S3``)."""

_ABSENT_PLACE_CODES = {"NoSuchBucket", "NoSuchAccessPoint"}
_DENIED_CODES = {"AccessDenied", "AllAccessDisabled", "403"}
_TRANSIENT_CODES = {"RequestTimeout", "SlowDown", "Throttling", "ThrottlingException"}
_TRANSPORT_FAULTS = (NoConnectionError, HTTPClientError, ResponseParserError)


class S3Store(ObjectStore):
    """A bucket, or what is below a prefix of it.

    An object is pinned by its version id, where the bucket keeps versions, and by its ETag. Every
    part is asked for with both and its answer's ETag compared, because some servers ignore
    ``If-Match``.

    Credentials without ``s3:ListBucket`` cannot see whether a key exists: S3 answers 403 for one
    that does not, just as for one that is forbidden. Such an answer is a failure here, never a
    missing adapter, and says what to grant.

    Args:
        uri: ``s3://bucket/prefix``.
    """

    def __init__(self, uri: str) -> None:
        options = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
        self._filesystem = s3fs.S3FileSystem(
            config_kwargs={**CLIENT_CONFIG, **options}, skip_instance_cache=True
        )
        self._filesystem.retries = 1
        self._reads_versions = True
        self._bucket, prefix, _ = self._filesystem.split_path(uri)
        super().__init__(prefix.rstrip("/"))

    async def stat(self, path: str) -> StoredObject | None:
        """Ask for the first byte: HEAD has no body, and only that tells why there is no answer."""
        if len(path.encode()) > MAX_KEY_BYTES:
            return None
        with described_by(_failure):
            try:
                answer = await self._get(path, start=0, end=1)
            except Exception as error:
                if _is_absent(error):
                    return None
                if _code(error) == "InvalidRange":
                    return StoredObject(path, 0, "empty")
                raise
            await _body(answer, 1)
            return _stored_object(path, answer)

    async def read(self, item: StoredObject, start: int, end: int) -> bytes:
        """See ``ObjectStore.read``.

        Reading a version takes the right ``s3:GetObjectVersion``; without it the ETag has to do.
        """
        with described_by(_failure):
            answer = await self._get_pinned(item, start, end)
            data = await _body(answer, end - start)
        if _etag(answer) not in ("", item.etag):
            raise changed()
        return data

    async def is_unchanged(self, item: StoredObject) -> bool:
        """A version cannot change; without one, look again."""
        return bool(item.version and self._reads_versions) or await super().is_unchanged(item)

    async def _get_pinned(self, item: StoredObject, start: int, end: int) -> dict[str, Any]:
        pin = {"IfMatch": f'"{item.etag}"'} if item.etag else {}
        if item.version and self._reads_versions:
            try:
                return await self._get(item.path, start, end, VersionId=item.version, **pin)
            except Exception as error:
                if _code(error) not in _DENIED_CODES:
                    raise
                self._reads_versions = False
        return await self._get(item.path, start, end, **pin)

    async def _get(self, path: str, start: int, end: int, **pin: str) -> dict[str, Any]:
        answer: dict[str, Any] = await self._filesystem._call_s3(
            "get_object", Bucket=self._bucket, Key=path, Range=f"bytes={start}-{end - 1}", **pin
        )
        return answer


def _stored_object(path: str, answer: dict[str, Any]) -> StoredObject:
    size = str(answer.get("ContentRange", "")).rpartition("/")[2]
    if not size.isdecimal():
        raise StoreFailure("the store does not say how long the object is", "use one that does")
    version = answer.get("VersionId") or ""
    version = "" if version == "null" else version  # that one is overwritten in place
    etag = _etag(answer)
    if not etag and not version:
        raise unpinnable()
    revision = f"version:{version} etag:{etag}" if version else f"etag:{etag}"
    return StoredObject(path, int(size), revision, etag, version)


async def _body(answer: dict[str, Any], length: int) -> bytes:
    """The body, if it is as long as announced; it is not read where it would be longer."""
    announced = answer.get("ContentLength", length)
    try:
        data: bytes = await answer["Body"].read() if announced == length else b""
    finally:
        answer["Body"].close()
    if len(data) != length:
        raise truncated(announced if announced != length else len(data), length)
    return data


def _etag(answer: dict[str, Any]) -> str:
    return str(answer.get("ETag", "")).replace('"', "")


def _failure(error: Exception) -> StoreFailure:
    code, status = _code(error), _status(error)
    if status is None:
        return _failure_without_answer(error)
    if _is_absent(error):
        return gone()
    if code in _ABSENT_PLACE_CODES:
        return StoreFailure("there is no such bucket", "check the address and the endpoint")
    if code in _DENIED_CODES:
        return StoreFailure(
            f"access is denied (HTTP {status} {code})",
            "grant s3:GetObject there and s3:ListBucket on the bucket, without which S3 answers "
            "so for a missing adapter, too",
        )
    if code in _TRANSIENT_CODES:
        return StoreFailure(f"the store is in trouble ({code})", transient=True)
    return failure_of_status(status, code)


def _failure_without_answer(error: Exception) -> StoreFailure:
    if isinstance(error, _TRANSPORT_FAULTS):
        return StoreFailure(f"the store cannot be read ({type(error).__name__})", transient=True)
    if isinstance(error, BotoCoreError):
        problem = f"the S3 client cannot be used ({type(error).__name__})"
        return StoreFailure(problem, "check the AWS credentials and configuration")
    return failure_of(error)


def _is_absent(error: Exception) -> bool:
    return _status(error) == 404 and _code(error) not in _ABSENT_PLACE_CODES


def _code(error: Exception) -> str | None:
    """S3's error code; s3fs raises errors of Python's with botocore's as their cause."""
    response = _response(error)
    return None if response is None else str(response.get("Error", {}).get("Code"))


def _status(error: Exception) -> int | None:
    response = _response(error)
    if response is None:
        return None
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status if isinstance(status, int) else None


def _response(error: BaseException | None) -> dict[str, Any] | None:
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return response
        error = error.__cause__
    return None
