"""What is installed: the entry points of one group, read so that one bad package hides no other."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from loramux_plugins.errors import PluginFaultError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A plugin on offer; nothing of it is imported yet."""

    name: str
    value: str
    distribution: str | None = None
    version: str | None = None
    entry_point: metadata.EntryPoint | None = None

    def load(self) -> object:
        """Import the plugin.

        Raises:
            PluginFaultError: if there is nothing to import.
            BaseException: whatever the import raises.
        """
        if self.entry_point is None:
            raise PluginFaultError("its entry_points.txt cannot be parsed")
        if self.entry_point.pattern.match(self.value) is None:
            raise PluginFaultError(f"its entry point {self.value!r} is no module[:attribute]")
        plugin: object = self.entry_point.load()
        if plugin is None:
            raise PluginFaultError(f"its entry point {self.value} is None")
        return plugin


def canonical_distribution_name(name: str) -> str:
    """The form in which two spellings of a distribution name are equal (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_candidates(group: str) -> list[Candidate]:
    """Every plugin of ``group`` in the environment, in the order of their names.

    A distribution found twice on ``sys.path`` counts once, the first place winning, as it does for
    imports. (``metadata.entry_points`` would do the same, and fails as a whole on one malformed
    file.)
    """
    first_of_each: dict[str, metadata.Distribution] = {}
    for distribution in metadata.distributions():
        if name := _field(distribution, "Name"):
            first_of_each.setdefault(canonical_distribution_name(name), distribution)
    found = {
        candidate
        for distribution in first_of_each.values()
        for candidate in _candidates(distribution, group)
    }
    return sorted(found, key=lambda candidate: (candidate.name, candidate.distribution or ""))


def _candidates(distribution: metadata.Distribution, group: str) -> Iterator[Candidate]:
    if f"[{group}]" not in _text(distribution, "entry_points.txt"):
        return
    name, version = _field(distribution, "Name"), _field(distribution, "Version")
    try:
        entry_points = list(distribution.entry_points)
    except Exception:  # the file is a stranger's, and its parser raises whatever it meets
        yield Candidate(str(name), "entry_points.txt", name, version)
        return
    for entry_point in entry_points:
        if entry_point.group == group:
            yield Candidate(entry_point.name, entry_point.value, name, version, entry_point)


def _field(distribution: metadata.Distribution, field: str) -> str | None:
    """A metadata field, or None for the leftovers of an uninstall, which have no metadata."""
    text = _text(distribution, "METADATA") or _text(distribution, "PKG-INFO")
    match = re.search(rf"^{field}:[ \t]*(\S+)", text, re.MULTILINE)
    return match.group(1) if match else None


def _text(distribution: metadata.Distribution, filename: str) -> str:
    """A metadata file, empty where there is none."""
    try:
        return distribution.read_text(filename) or ""
    except (OSError, UnicodeDecodeError) as error:
        log.warning("%s of an installed distribution cannot be read: %s", filename, error)
        return ""
