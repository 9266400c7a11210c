"""The API keys a server takes, and whose they are."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Sequence
from pathlib import Path

from loramux.errors import InvalidRequestError
from loramux.server.access.caller import ANYBODY, Caller, Role
from loramux.server.access.keys_file import KeyDigest, key_digest, read_keys_file

log = logging.getLogger(__name__)


class Keyring:
    """Knows callers by their keys; without any key, everybody is let in.

    Args:
        plain_keys: keys that may do everything, each named by its :func:`fingerprint`.
        file: of further keys; see ``keys_file``.

    Raises:
        InvalidRequestError: the file cannot be used.
    """

    def __init__(self, plain_keys: Sequence[str] = (), file: Path | None = None) -> None:
        self._plain = [
            (key_digest(key.encode()), Caller(fingerprint(key), Role.ADMIN)) for key in plain_keys
        ]
        self._file = file
        self._callers: list[tuple[KeyDigest, Caller]] = []
        self.version = 0
        """Changes whenever keys may have come, gone or changed their rights."""
        self._read()

    @property
    def is_open(self) -> bool:
        """Whether no key is needed."""
        return not self._callers

    def caller(self, key: bytes) -> Caller | None:
        """Whose key it is; None if it is nobody's."""
        if self.is_open:
            return ANYBODY
        sent = key_digest(key)
        # Every key is compared, in constant time: how long it takes tells nothing about any.
        matches = [caller for digest, caller in self._callers if hmac.compare_digest(digest, sent)]
        return matches[0] if matches else None

    def reload(self) -> None:
        """Read the file again; one that cannot be used changes nothing, and the log says so."""
        try:
            self._read()
        except InvalidRequestError as error:
            log.error("the API keys stay as they are: %s", error)
        else:
            log.info("%d API keys are taken from now on", len(self._callers))

    def _read(self) -> None:
        from_file = [] if self._file is None else read_keys_file(self._file)
        taken = {digest: caller.name for digest, caller in self._plain}
        names = set(taken.values())
        for digest, caller in from_file:
            if digest in taken or caller.name in names:
                raise InvalidRequestError(
                    f"The key of {caller.name!r} in {str(self._file)!r} is given with --api-key "
                    "too; leave it out at one of the two places.",
                    "api_keys_file",
                )
        self._callers = [*self._plain, *from_file]
        self.version += 1


def fingerprint(api_key: str) -> str:
    """Sixteen hexadecimal digits that stand for a key wherever one might be read."""
    return key_digest(api_key.encode()).hex()[:16]
