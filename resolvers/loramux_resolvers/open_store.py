"""From the address of a store, as an operator writes it, to the store."""

from __future__ import annotations

import os
from collections.abc import Callable
from urllib.parse import urlsplit

from fsspec.core import url_to_fs
from fsspec.registry import known_implementations

from loramux import LoRAResolver
from loramux.errors import PluginError
from loramux.lora.size_limit import max_adapter_bytes
from loramux_resolvers.object_store import BASE_MODEL_NAME, ObjectStoreLoRAResolver
from loramux_resolvers.store import FsspecStore, LocalStore, ObjectStore

_S3 = ("s3", "s3a")
_HTTP = ("http", "https")
_LOCAL = ("file", "local")


def register_from_environment(
    register: Callable[[str, LoRAResolver], None], name: str, variable: str
) -> None:
    """Register one resolver for the address that an environment variable holds.

    Raises:
        PluginError: if it is no address of a store, holds a secret, or takes a package that is
            not installed.
        EnvironmentVariableError: if ``LORAMUX_MAX_ADAPTER_BYTES`` cannot be read.
    """
    uri = os.environ[variable].strip()
    max_bytes = max_adapter_bytes()
    if problem := _problem(uri):
        raise PluginError(f"{variable} {problem}.")
    try:
        store = open_store(uri)
    except ImportError as error:
        raise PluginError(
            f"{variable} is {uri!r}, for which a package is missing{_remedy(uri, error)}."
        ) from error
    register(name, ObjectStoreLoRAResolver(uri, store, max_bytes=max_bytes))


def open_store(uri: str) -> ObjectStore:
    """The store at an address; nothing is asked of it yet.

    Raises:
        ImportError: if the protocol's package is not installed.
    """
    uri = uri.rstrip("/") if _protocol(uri) in (*_S3, *_HTTP) else uri
    if _protocol(uri) in _S3:
        from loramux_resolvers.s3_store import S3Store

        return S3Store(uri)
    if _protocol(uri) in _HTTP:
        from loramux_resolvers.http_store import HttpStore

        return HttpStore(uri)
    filesystem, root = url_to_fs(uri, use_listings_cache=False, skip_instance_cache=True)
    root = root.rstrip("/")
    if _protocol(uri) in _LOCAL:
        before = root.partition(BASE_MODEL_NAME)[0]
        return LocalStore(filesystem, root, before if before == root else os.path.dirname(before))
    return FsspecStore(filesystem, root)


def _remedy(uri: str, error: ImportError) -> str:
    """Packages that fsspec has for a protocol are called like the module of their class."""
    known = known_implementations.get(_protocol(uri), {})
    package = known.get("class", "fsspec").partition(".")[0]
    if package == "fsspec":
        return f" ({known.get('err', error)}); install it"
    return f"; install it with: pip install '{package}'"


def _problem(uri: str) -> str | None:
    """What keeps a text from being a store's address; never quotes what may hold a secret."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return "is no address; set it to one such as s3://bucket/prefix"
    is_http = parts.scheme in _HTTP
    if parts.password is not None or (is_http and (parts.username or parts.query)):
        return (
            "holds a user name, password or query, which would show up in logs; give the address "
            f"alone, and credentials through fsspec's configuration (FSSPEC_{parts.scheme.upper()})"
        )
    if _protocol(uri) not in known_implementations:
        return f"is {uri!r}, whose protocol fsspec does not know; use one such as s3:// or https://"
    if parts.scheme in (*_S3, *_HTTP) and not parts.netloc:
        return f"is {uri!r}, without a bucket or host; use one such as s3://bucket/prefix"
    return None


def _protocol(uri: str) -> str:
    return uri.partition("://")[0].lower() if "://" in uri else ""
