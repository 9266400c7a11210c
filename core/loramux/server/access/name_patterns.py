"""Patterns of adapter names, such as ``team-a/*``."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from loramux.lora.resolve.registry import MAX_NAME_LENGTH


@dataclass(frozen=True)
class NamePatterns:
    """Names that a key may use. ``*`` stands for any characters, slashes included.

    Everything else stands for itself, case and accents included. A name that could be read as
    another one, such as ``team-a/../team-b/x`` or one with a fullwidth slash, fits no pattern:
    whoever looks it up later might read it as that other one.
    """

    patterns: tuple[str, ...]

    @classmethod
    def of(cls, patterns: Iterable[str]) -> NamePatterns:
        """Check patterns.

        Raises:
            ValueError: one could never fit a name; the message completes "the pattern ...".
        """
        checked = tuple(patterns)
        for pattern in checked:
            # A star in the place of a whole component must not hide what is wrong around it.
            if not is_plain(pattern.replace("*", "x")):
                raise ValueError(
                    f"{pattern!r} fits no name: components between single slashes, none of them "
                    "'.' or '..', without backslashes, percent signs and look-alike characters"
                )
        return cls(checked)

    def fit(self, name: str) -> bool:
        """Whether a key with these patterns may use the name."""
        return is_plain(name) and any(_fits(pattern, name) for pattern in self.patterns)


def is_plain(name: str) -> bool:
    """Whether a name can be read in one way only."""
    return (
        len(name) <= MAX_NAME_LENGTH
        and name.isprintable()
        and unicodedata.is_normalized("NFKC", name)
        and not any(character in name for character in "\\%")
        and all(part.strip() not in ("", ".", "..") for part in name.split("/"))
    )


def _fits(pattern: str, name: str) -> bool:
    """In time that grows with the name's length alone, whatever the pattern: no backtracking."""
    first, *rest = pattern.split("*")
    if not rest:
        return name == pattern
    *middle, last = rest
    end = len(name) - len(last)
    if not (name.startswith(first) and name.endswith(last) and len(first) <= end):
        return False
    position = len(first)
    for part in middle:
        found = name.find(part, position, end)
        if found < 0:
            return False
        position = found + len(part)
    return True
