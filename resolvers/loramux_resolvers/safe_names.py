"""Which names may become paths below a directory or a bucket prefix."""

from __future__ import annotations

import re
import unicodedata

_ESCAPED = re.compile(r"%(25|2e|2f|5c|00)", re.IGNORECASE)
"""Percent-encoded ``%``, ``.``, ``/``, backslash and NUL: one decoder too many down the line makes
them real."""

_DRIVE = re.compile(r"[A-Za-z]:")

# Folding (NFKC) turns some of these into the real thing, and others it leaves as they are.
_LOOKALIKES = frozenset(
    "\u2024\u2025\u2026\ufe52\uff0e\u3002\uff61"  # dots
    "\u2044\u2215\u29f8\u2571\uff0f"  # slashes
    "\u2216\u29f5\u29f9\u2572\ufe68\uff3c"  # backslashes
)


def why_unsafe(name: str) -> str | None:
    """Say why ``name`` must not become a relative path; None if it may.

    A safe name consists of one or more components between single slashes. None of them is hidden
    (``.x``), ``.`` or ``..``, and none of the forms in which such a component or a separator
    could be disguised occurs. The check is one of form: a symbolic link on the way is another
    matter.
    """
    if not name.isprintable():
        return "it holds a character that is not printable"
    if not unicodedata.is_normalized("NFC", name):
        return "it is not in Unicode normal form C"
    folded = unicodedata.normalize("NFKC", name)
    if not _LOOKALIKES.isdisjoint(name) or any(name.count(c) != folded.count(c) for c in "./"):
        return "it holds a character that looks like a dot or a slash"
    return _why_malformed(name) or _why_malformed(folded)


def _why_malformed(name: str) -> str | None:
    if "\\" in name:
        return "it holds a backslash"
    if _ESCAPED.search(name):
        return "it holds a percent-encoded dot, slash, backslash, NUL or percent sign"
    if _DRIVE.match(name):
        return "it begins with a drive letter"
    for component in name.split("/"):
        if not component.strip():
            return "it holds an empty component"
        if component.lstrip().startswith("."):
            return "it holds a component that begins with a dot"
    return None
