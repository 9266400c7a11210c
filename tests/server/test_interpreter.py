"""What serving asks of the interpreter of its process."""

from __future__ import annotations

import gc
import sys

from loramux.server import interpreter


def test_what_stays_is_never_walked_over_again_and_nobody_keeps_the_interpreter():
    interval = sys.getswitchinterval()
    made = [[] for _ in range(1000)]
    try:
        interpreter.keep()
        kept = gc.get_freeze_count()
        assert kept > 10_000
        made += [[] for _ in range(1000)]
        interpreter.settle()
        assert gc.get_freeze_count() >= kept + 1000
        assert sys.getswitchinterval() < interval
    finally:
        sys.setswitchinterval(interval)
        gc.unfreeze()
