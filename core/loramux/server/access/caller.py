"""Who asks, as the API key tells."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from fastapi import Request

from loramux.server.access.name_patterns import NamePatterns

SCOPE_KEY = "loramux.access"


class Role(StrEnum):
    """What a key is for."""

    INFER = "infer"
    """Use models."""
    ADMIN = "admin"
    """Also load, unload, pin and prefetch adapters, and read metrics."""


@dataclass(frozen=True)
class Quota:
    """How much one caller may take; None is without limit.

    Args:
        requests_per_second: in the mean, each sequence (prompts times ``n``) counted as one; as
            many may come at once after a second's pause.
        concurrent_loads: adapters being searched for and loaded at the same time.
        resident_adapters: found adapters that are kept for the caller.
    """

    requests_per_second: float | None = None
    concurrent_loads: int | None = None
    resident_adapters: int | None = None


@dataclass(frozen=True)
class Caller:
    """An identity, and its rights.

    Args:
        name: who it is, to resolvers and in the log; None where the server has no keys.
        adapters: names it may use; None is any. The base model is everybody's.
    """

    name: str | None
    role: Role = Role.INFER
    adapters: NamePatterns | None = None
    quota: Quota = Quota()

    @property
    def is_admin(self) -> bool:
        """Whether it may do what is for operators."""
        return self.role is Role.ADMIN

    def may_use(self, adapter_name: str) -> bool:
        """Whether adapters of that name exist for this caller."""
        return self.adapters is None or self.adapters.fit(adapter_name)


ANYBODY = Caller(None, Role.ADMIN)
"""Whoever asks a server that has no keys."""


def access_of(request: Request) -> Caller:
    """Who sent a request, with their rights."""
    caller: Caller = request.scope.get(SCOPE_KEY, ANYBODY)
    return caller
