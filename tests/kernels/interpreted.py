"""Triton kernels on the CPU, through Triton's own interpreter.

Triton decides when it is first imported whether it interprets. Other tests import it before (by
way of transformers), so tests of kernels hand their work to a process of their own::

    @pytest.fixture(scope="module")
    def interpreter():
        with interpreting_process() as process:
            yield process

    def test_it(interpreter):
        interpreter.submit(check_it, 3).result()

``check_it`` is a function at the top of a module that imports kernels only inside functions; what
it raises is raised again by ``result()``. Use float32 there: the interpreter computes bfloat16
wrongly.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from types import ModuleType

VARIABLE = "TRITON_INTERPRET"


def interpreted_triton() -> ModuleType:
    """Import Triton such that it interprets.

    Raises:
        RuntimeError: it was imported before, without its interpreter.
    """
    if "triton" in sys.modules and os.environ.get(VARIABLE) != "1":
        raise RuntimeError(
            f"triton was imported without {VARIABLE}=1, which it reads only once: "
            "set it before, or use interpreting_process()."
        )
    os.environ[VARIABLE] = "1"
    import triton

    return triton


@contextmanager
def interpreting_process() -> Iterator[ProcessPoolExecutor]:
    """A process in which ``interpreted_triton`` was called before anything else."""
    spawn = get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=interpreted_triton) as process:
        yield process
