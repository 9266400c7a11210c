"""The file of API keys.

.. code-block:: toml

    [[keys]]
    name = "team-a"                       # who it is, to resolvers and in the log
    key = "sk-..."                        # or sha256 = "<64 hexadecimal digits>"; either may be a
                                          # list, so that a new key can be handed out in time
    role = "infer"                        # the default; "admin" also loads, pins and sees metrics
    adapters = ["team-a/*", "shared"]     # names it may use; left out: all
    quota = { requests_per_second = 10, concurrent_loads = 2, resident_adapters = 8 }
                                          # a request counts once for each prompt and each of n
"""

from __future__ import annotations

import hashlib
import logging
import stat
import tomllib
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from loramux.errors import InvalidRequestError
from loramux.server.access.caller import Caller, Quota, Role
from loramux.server.access.name_patterns import NamePatterns

log = logging.getLogger(__name__)

KeyDigest = bytes
"""SHA-256 of an API key; the keys themselves are not kept."""


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


_Digest = Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")]
_Key = Annotated[SecretStr, Field(min_length=1)]


class _Quota(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    requests_per_second: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    concurrent_loads: Annotated[int, Field(ge=1)] | None = None
    resident_adapters: Annotated[int, Field(ge=1)] | None = None


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@:/+-]{0,127}$")]
    key: Annotated[list[_Key], BeforeValidator(_as_list)] = []
    sha256: Annotated[list[_Digest], BeforeValidator(_as_list)] = []
    role: Role = Role.INFER
    adapters: list[str] | None = None
    quota: _Quota = _Quota()

    def digests(self) -> list[KeyDigest]:
        given = [key_digest(key.get_secret_value().encode()) for key in self.key]
        return [*given, *(bytes.fromhex(text) for text in self.sha256)]

    def caller(self) -> Caller:
        patterns = None if self.adapters is None else NamePatterns.of(self.adapters)
        return Caller(self.name, self.role, patterns, Quota(**self.quota.model_dump()))


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: Annotated[list[_Entry], Field(min_length=1)]


def key_digest(key: bytes) -> KeyDigest:
    """What is kept of a key, and what a key that is sent is compared as."""
    return hashlib.sha256(key).digest()


def read_keys_file(path: Path) -> list[tuple[KeyDigest, Caller]]:
    """Every key of a file and whose it is; warns of a file that others can read.

    Raises:
        InvalidRequestError: it cannot be read, or says something that cannot be meant; the
            sentence holds no key.
    """
    try:
        entries = _parse(path)
        pairs = [(digest, entry.caller()) for entry in entries for digest in entry.digests()]
        _check_unique(entries, pairs)
    except ValidationError as error:
        raise _refusal(path, _first_fault(error)) from None  # it would show the keys
    except tomllib.TOMLDecodeError as error:
        raise _refusal(path, f"it is no TOML: {error}") from None
    except OSError as error:
        raise _refusal(path, f"it cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise _refusal(path, str(error)) from None
    _warn_if_open(path)
    return pairs


def _parse(path: Path) -> list[_Entry]:
    text = path.read_bytes().decode()
    return _File.model_validate(tomllib.loads(text)).keys


def _check_unique(entries: list[_Entry], pairs: list[tuple[KeyDigest, Caller]]) -> None:
    for entry in entries:
        if not entry.digests():
            raise ValueError(f"{entry.name!r} has neither a key nor a sha256")
    names = Counter(entry.name for entry in entries)
    digests = Counter(digest for digest, _ in pairs)
    if twice := [name for name, times in names.items() if times > 1]:
        raise ValueError(f"{twice[0]!r} is there twice; give one entry several keys in a list")
    if shared := [caller.name for digest, caller in pairs if digests[digest] > 1]:
        raise ValueError(f"one key stands for both {shared[0]!r} and {shared[1]!r}")


def _first_fault(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "the file"
    return f"{place}: {first['msg']}"


def _refusal(path: Path, reason: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"The API keys file {str(path)!r} cannot be used: {reason.removesuffix('.')}; "
        "mend it, see `loramux serve --help`.",
        "api_keys_file",
    )


def _warn_if_open(path: Path) -> None:
    if path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        log.warning("others can read or write the API keys file %s; chmod it to 600.", path)
