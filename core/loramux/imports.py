"""Imports of whole libraries, without a search for garbage in them."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


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
