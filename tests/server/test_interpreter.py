"""What serving asks of the interpreter of its process."""

from __future__ import annotations

import gc
import sys

from loramux.server import interpreter


def test_what_stays_is_never_walked_over_again_and_nobody_keeps_the_interpreter():
    interval = sys.getswitchinterval()
    try:
        interpreter.settle()
        assert gc.get_freeze_count() > 10_000
        assert sys.getswitchinterval() < interval
    finally:
        sys.setswitchinterval(interval)
        gc.unfreeze()
