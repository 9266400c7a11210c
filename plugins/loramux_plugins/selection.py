"""Which plugins the environment asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loramux_plugins.discovery import Candidate, canonical_distribution_name
from loramux_plugins.errors import PluginSelectionError

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"", "0", "false", "no", "off"}


@dataclass(frozen=True)
class Selection:
    """The names in ``<PROJECT>_PLUGINS``, or in ``PLUGINS`` where the long one is not set.

    ``names`` is None where neither is set: whatever is installed and configured. An empty value
    asks for no plugin at all.
    """

    variable: str
    names: tuple[str, ...] | None

    @classmethod
    def read(cls, project: str, environ: Mapping[str, str]) -> Selection:
        """Read the selection of ``project`` from ``environ``."""
        long = f"{project.upper()}_PLUGINS"
        variable = next((name for name in (long, "PLUGINS") if name in environ), long)
        text = environ.get(variable)
        if text is None:
            return cls(variable, None)
        return cls(variable, tuple(name.strip() for name in text.split(",") if name.strip()))

    def choose(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The candidates asked for, in the order in which they are asked for."""
        if self.names is None:
            return list(candidates)
        matches = [match for name in self.names for match in _matches(name, candidates)]
        return list(dict.fromkeys(matches))

    def refusals(self, candidates: Sequence[Candidate]) -> list[PluginSelectionError]:
        """One error for each name asked for to which no candidate answers."""
        installed = ", ".join(dict.fromkeys(candidate.name for candidate in candidates)) or "none"
        return [
            PluginSelectionError(
                f"{self.variable} asks for the plugin {name!r}, which is not installed; install it "
                f"or take it out of {self.variable} (installed plugins: {installed})."
            )
            for name in self.names or ()
            if not _matches(name, candidates)
        ]


def _matches(name: str, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Candidates called ``name``; where there is none, those of the distribution ``name``."""
    distribution = canonical_distribution_name(name)
    by_name = [candidate for candidate in candidates if candidate.name == name]
    return by_name or [
        candidate
        for candidate in candidates
        if canonical_distribution_name(candidate.distribution or "") == distribution
    ]


def read_strict(project: str, environ: Mapping[str, str]) -> bool:
    """Whether ``<PROJECT>_STRICT_PLUGINS`` asks that a broken plugin's own error be raised.

    Raises:
        PluginSelectionError: if the value is neither a yes nor a no.
    """
    variable = f"{project.upper()}_STRICT_PLUGINS"
    value = environ.get(variable, "").strip().lower()
    if value not in _TRUE | _FALSE:
        raise PluginSelectionError(
            f"{variable} is {environ[variable]!r}, which is neither yes nor no; set it to 1 or 0."
        )
    return value in _TRUE
