"""What a host remembers about one plugin."""

from __future__ import annotations

from dataclasses import dataclass

from loramux_plugins.discovery import Candidate
from loramux_plugins.errors import PluginFaultError
from loramux_plugins.info import PluginInfo, PluginState


@dataclass
class PluginRecord:
    """One plugin, from its discovery to whatever became of it."""

    candidate: Candidate
    explicit: bool = False
    """Whether it was asked for by name, so that the start fails without it."""
    plugin: object | None = None
    state: PluginState = PluginState.NOT_SELECTED
    hooks: tuple[str, ...] = ()
    error: str | None = None

    @property
    def name(self) -> str:
        """Name of its entry point."""
        return self.candidate.name

    @property
    def origin(self) -> str:
        """Name and provenance, for a message."""
        if self.candidate.distribution is None:
            return f"plugin {self.name!r} ({self.candidate.value})"
        version = self.candidate.version or "of unknown version"
        return f"plugin {self.name!r} of {self.candidate.distribution} {version}"

    def info(self) -> PluginInfo:
        """The public view of this record."""
        return PluginInfo(
            name=self.name,
            state=self.state,
            version=self.candidate.version,
            distribution=self.candidate.distribution,
            value=self.candidate.value,
            hooks=self.hooks,
            error=self.error,
        )


def one_line(error: BaseException) -> str:
    """An error as one line; its type is left out where the message was written for the reader."""
    message = " ".join(str(error).split())
    if isinstance(error, PluginFaultError):
        return message
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
