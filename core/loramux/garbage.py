"""When Python looks for garbage, which stops every thread for as long as it takes."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

NEVER = 2**31 - 1
"""Searches among younger objects before one among all."""


@contextmanager
def importing() -> Iterator[None]:
    """Import modules within, and nothing else.

    What a module makes stays, and yet Python looks again and again for garbage among it: a fifth
    of the time that PyTorch and transformers take, 0.9 s of 4.4 s. What was made counts as old
    afterwards, so that the next quick search does not begin with all of it.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        _call_old()
        gc.enable()


def _call_old() -> None:
    """Move every object to the oldest generation; a process that keeps some frozen keeps all so."""
    keeps_frozen = gc.get_freeze_count() > 0
    gc.freeze()
    if not keeps_frozen:
        gc.unfreeze()


class _Work:
    """How many pieces of work are under way that are not to be held up, in all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way = 0
        self._usual = gc.get_threshold()

    def begin(self) -> None:
        with self._lock:
            if not self._under_way:
                self._usual = gc.get_threshold()
                gc.set_threshold(*self._usual[:2], NEVER)
            self._under_way += 1

    def end(self) -> None:
        with self._lock:
            self._under_way -= 1
            if not self._under_way:
                gc.set_threshold(*self._usual)


_work = _Work()


@contextmanager
def only_among_young() -> Iterator[None]:
    """Look for garbage only among what was made lately.

    A search among all that PyTorch and transformers consist of takes 0.2 s, in which a GPU has
    nothing to do, and came once in some ten seconds of work.
    """
    _work.begin()
    try:
        yield
    finally:
        _work.end()
