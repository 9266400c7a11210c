"""What a host tells about one plugin."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum


class PluginState(StrEnum):
    """Where a plugin stands after loading."""

    ACTIVE = "active"
    NOT_SELECTED = "not selected"
    NOT_CONFIGURED = "not configured"
    BROKEN = "broken"


@dataclass(frozen=True)
class PluginInfo:
    """One line of the plugin list; every field is a plain JSON value."""

    name: str
    """Name of the entry point: what the selecting environment variable takes."""
    state: PluginState
    version: str | None
    distribution: str | None
    """Name of the installed distribution; None for a plugin registered from code."""
    value: str
    """Where the plugin is, as ``module`` or ``module:attribute``."""
    hooks: tuple[str, ...]
    """Hooks it implements; empty where the plugin was never imported."""
    error: str | None
    """Why it is not active, or what is odd about it although it is."""

    def as_json(self) -> dict[str, object]:
        """The same as a dictionary that :func:`json.dumps` takes."""
        return asdict(self) | {"hooks": list(self.hooks)}
