"""Has the engine's kernels compiled all at once, in a process that gets ready while it starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch

from loramux.logger import get_logger
from loramux.lora.read_process.child_process import child_environment

if TYPE_CHECKING:
    from loramux_kernels.ahead.rehearsal import Specialization

log = get_logger(__name__)

PROCESS = "loramux_kernels.ahead.compiler"

MAX_SECONDS = 120.0
"""On 16 cores all take as long as the slowest one, 4 s; what takes this long will not end."""

ONE_BY_ONE = "kernels are compiled one by one, since compiling them at once failed: %s"


def start_compiler(device: torch.device, on_failure: ExitStack) -> KernelCompiler | None:
    """The compiler for a GPU, None where there are no kernels; ended if the engine's start fails.

    It saves time and nothing else: what goes wrong with it is logged.
    """
    if device.type != "cuda" or find_spec("triton") is None:
        return None
    try:
        compiler = KernelCompiler()
    except OSError as error:
        log.warning(ONE_BY_ONE, error)
        return None
    on_failure.callback(compiler.close)
    return compiler


class KernelCompiler:
    """The process, which importing PyTorch takes seconds; nothing waits for it meanwhile.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", PROCESS],
            env=child_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    def prepare(self, rehearse: Callable[[], Collection[Specialization]]) -> None:
        """Bring what ``rehearse`` tells into Triton's cache, and end the process."""
        started = time.perf_counter()
        try:
            hash_triton_meanwhile()
            specializations = rehearse()
            named = time.perf_counter()
            if specializations:
                self._compile(specializations)
                log.info(
                    "%d kernels named in %.1f s, compiled or found in %.1f s",
                    len(specializations),
                    named - started,
                    time.perf_counter() - named,
                )
        except Exception as error:
            log.warning(ONE_BY_ONE, error)
        finally:
            self.close()

    def _compile(self, specializations: Collection[Specialization]) -> None:
        from loramux_kernels.ahead.compiler import order_of

        _, errors = self._process.communicate(order_of(specializations), timeout=MAX_SECONDS)
        if self._process.returncode != 0:
            last_line = (errors.strip().splitlines() or ["no reason given"])[-1]
            raise RuntimeError(f"status {self._process.returncode}, {last_line}")

    def close(self) -> None:
        """End the process and what it has started, should any of it still run."""
        errors = self._process.stderr
        if errors is None or errors.closed:
            return  # all who could write to it have ended
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # forks may outlive it
        self._process.communicate()


def hash_triton_meanwhile() -> None:
    """Begin what Triton does before the first launch of a process: 0.3 s, mostly without Python."""
    from triton.runtime.cache import triton_key

    threading.Thread(target=triton_key, name="loramux-triton-hash", daemon=True).start()
