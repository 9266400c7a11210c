"""Places that hold adapters, behind one small interface: what is there, and these bytes of it."""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsspec.spec import AbstractFileSystem

from loramux.errors import AdapterRefusedError
from loramux.lora.checkpoint.real_file import real_file
from loramux.lora.checkpoint.regular_file import open_regular
from loramux.lora.links import is_below
from loramux_resolvers.store_failure import (
    StoreFailure,
    changed,
    described_by,
    failure_of,
    gone,
    is_missing,
    truncated,
)

_FINGERPRINTS = (
    "VersionId",
    "version_id",
    "generation",
    "ETag",
    "etag",
    "md5Hash",
    "md5",
    "hex",
)
_STAMPS = ("mtime", "LastModified", "last_modified", "modified", "updated", "created", "ino")


@dataclass(frozen=True)
class StoredObject:
    """One object of a store, as it was when somebody looked.

    Args:
        path: where it is, in the store's own form.
        size: its length in bytes.
        revision: what tells it from any other content that may be there later.
        etag: the HTTP entity tag without quotes; empty where there is none.
        version: the store's id of this version; empty where there is none.
        ranged: whether parts of it may be asked for.
    """

    path: str
    size: int
    revision: str
    etag: str = ""
    version: str = ""
    ranged: bool = True


class ObjectStore(ABC):
    """A store; its coroutines run in fsspec's event loop, ``fsspec.asyn.get_loop()``.

    Args:
        root: the path below which all adapters are, without a slash at its end.
    """

    def __init__(self, root: str) -> None:
        self.root = root

    @abstractmethod
    async def stat(self, path: str) -> StoredObject | None:
        """Look at an object; None if there is none.

        Raises:
            StoreFailure: if the store does not tell.
        """

    @abstractmethod
    async def read(self, item: StoredObject, start: int, end: int) -> bytes:
        """Bytes ``start`` to ``end``, the end excluded, of the very object that ``stat`` saw.

        Raises:
            StoreFailure: if they cannot be had.
        """

    async def is_unchanged(self, item: StoredObject) -> bool:
        """Look again, after reading."""
        return await self.stat(item.path) == item

    def quote(self, name: str) -> str:
        """A safe name in the form in which it stands in a path of this store."""
        return name


class FsspecStore(ObjectStore):
    """Any file system of fsspec.

    An object is pinned by the first of these that the file system gives: version id, generation,
    ETag or MD5; times and inode; ``checksum()``. Times are as fine as the store keeps them, so a
    file that is replaced twice within one tick by one of the same length is not noticed.
    """

    def __init__(self, filesystem: AbstractFileSystem, root: str) -> None:
        super().__init__(root)
        self._filesystem = filesystem

    async def stat(self, path: str) -> StoredObject | None:
        """See ``ObjectStore.stat``; only a regular file counts."""
        with described_by(failure_of):
            info = await self._info(path)
            if info.get("type") != "file":
                return None
            return StoredObject(path, _size(info), await self._revision(path, info))

    async def read(self, item: StoredObject, start: int, end: int) -> bytes:
        """See ``ObjectStore.read``; whether it is the same object shows only afterwards."""
        with described_by(lambda error: gone() if is_missing(error) else failure_of(error)):
            data = await self._bytes(item.path, start, end)
        if len(data) != end - start:
            raise truncated(len(data), end - start)
        return data

    async def _bytes(self, path: str, start: int, end: int) -> bytes:
        data: bytes = await self._call("cat_file", path, start=start, end=end)
        return data

    async def _info(self, path: str) -> dict[str, Any]:
        """What the file system says about a path; nothing, where there is none."""
        try:
            info: dict[str, Any] = await self._call("info", path)
        except Exception as error:
            if is_missing(error):
                return {}
            raise
        return info

    async def _revision(self, path: str, info: dict[str, Any]) -> str:
        for fields in (_FINGERPRINTS, _STAMPS):
            found = [f"{name.lower()}:{info[name]}" for name in fields if info.get(name)]
            if found:
                return " ".join(found).replace('"', "")
        if type(self._filesystem).checksum is AbstractFileSystem.checksum:
            raise unpinnable()
        return f"checksum:{await self._call('checksum', path)}"

    async def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        if self._filesystem.async_impl:
            return await getattr(self._filesystem, f"_{method}")(*args, **kwargs)
        blocking: Callable[..., Any] = getattr(self._filesystem, method)
        return await asyncio.to_thread(blocking, *args, **kwargs)


class LocalStore(FsspecStore):
    """A directory of this machine; what a symbolic link leads out of it is not there.

    Args:
        fence: the directory that links must not lead out of.
    """

    def __init__(self, filesystem: AbstractFileSystem, root: str, fence: str) -> None:
        super().__init__(filesystem, root)
        self._fence = fence

    async def stat(self, path: str) -> StoredObject | None:
        """See ``ObjectStore.stat``."""
        fence = await asyncio.to_thread(os.path.realpath, self._fence)
        real = await asyncio.to_thread(os.path.realpath, path)
        if not is_below(fence, real):
            return None
        return await super().stat(path)

    async def _bytes(self, path: str, start: int, end: int) -> bytes:
        try:
            return await asyncio.to_thread(self._bytes_inside, path, start, end)
        except AdapterRefusedError as error:
            raise changed() from error  # ``stat`` found it inside

    def _bytes_inside(self, path: str, start: int, end: int) -> bytes:
        real = real_file(Path(path), [os.path.realpath(self._fence)])
        with open_regular(real, follow_links=False) as file:
            file.seek(start)
            return file.read(end - start)


def unpinnable() -> StoreFailure:
    """Nothing tells this object from the next one under its name."""
    return StoreFailure(
        "the store gives neither ETag nor modification time, so that a change would go unnoticed",
        "use a store that gives one",
    )


def _size(info: dict[str, Any]) -> int:
    size = info.get("size")
    if not isinstance(size, int):
        raise StoreFailure("the store does not say how long the file is", "use one that does")
    return size
