"""What serving asks of the interpreter of its process."""

from __future__ import annotations

import gc
import sys

from loramux.server import interpreter


def walked(objects: list[list[int]]) -> int:
    """How many of them a garbage collection walks over: those frozen are in no generation."""
    generations = {id(found) for found in gc.get_objects()}
    return sum(id(one) in generations for one in objects)


def test_what_stays_is_never_walked_over_again_and_nobody_keeps_the_interpreter():
    interval = sys.getswitchinterval()
    before: list[list[int]] = [[] for _ in range(1000)]
    try:
        assert walked(before) == 1000
        interpreter.keep()
        later: list[list[int]] = [[] for _ in range(1000)]
        assert (walked(before), walked(later)) == (0, 1000)
        interpreter.settle()
        assert (walked(before), walked(later)) == (0, 0)
        assert sys.getswitchinterval() < interval
    finally:
        sys.setswitchinterval(interval)
        gc.unfreeze()
