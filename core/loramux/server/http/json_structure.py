"""How much there is in a JSON text besides numbers and strings, counted before it is parsed."""

from __future__ import annotations

import numpy as np

PIECE_BYTES = 2**20
"""Counted at once, so that little memory is needed beside the text's own."""

_QUOTE = ord('"')
_MARKS = b"[{:"


def may_hold_more(text: bytes, limit: int) -> bool:
    """Whether a text may have more than ``limit`` of what :func:`num_parts` counts; quick."""
    return len(text) > limit and sum(map(text.count, (b"[", b"{", b":"))) > limit


def num_parts(text: bytes) -> int:
    """Number of arrays, objects and members of objects; up to where a text is no JSON any more.

    NumPy lets other threads go on meanwhile, and ``json`` does not.
    """
    # What is left has no quote that does not begin or end a string.
    text = text.replace(rb"\\", b"").replace(rb"\"", b"")
    count, is_inside = 0, np.uint8(0)
    for start in range(0, len(text), PIECE_BYTES):
        piece = np.frombuffer(text[start : start + PIECE_BYTES], np.uint8)
        inside = (np.cumsum(piece == _QUOTE, dtype=np.uint8) + is_inside) & 1
        marks = np.logical_or.reduce([piece == mark for mark in _MARKS])
        count += int(np.count_nonzero(marks & (inside == 0)))
        is_inside = inside[-1]
    return count
