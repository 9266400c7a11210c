"""Which doors are open to everybody, and which to admins only."""

from __future__ import annotations

import re

RUNTIME_UPDATES_VARIABLE = "LORAMUX_ALLOW_RUNTIME_LORA_UPDATING"
"""Set by operators who let clients load and unload adapters."""

OPEN_PATHS = frozenset({"/health", "/version"})
"""For load balancers; everything else needs a key where there are any."""

_ADMIN_PATHS = re.compile(
    r"/(?:metrics|dashboard|v1/load_lora_adapter|v1/unload_lora_adapter)(?:/.*)?", re.DOTALL
)
_ADAPTERS = re.compile(r"/v1/adapters(?:/.*)?", re.DOTALL)


def needs_admin(method: str, path: str) -> bool:
    """Whether a request needs the role ``admin``; adapters may be looked at with any key."""
    if _ADMIN_PATHS.fullmatch(path):
        return True
    return _ADAPTERS.fullmatch(path) is not None and method not in ("GET", "HEAD")
