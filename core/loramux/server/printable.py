"""Text from this machine's files and command lines, on its way to JSON."""

from __future__ import annotations


def printable(text: str) -> str:
    """Text that has a UTF-8 form, which names of files need not have, with ``?`` for the rest."""
    return text.encode("utf-8", "replace").decode()
