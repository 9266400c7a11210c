"""One run of the process that reads adapters, seen from the engine that has started it."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Sequence

from loramux.lora.read_process.messages import ReadRequest, receive, send, socket_pair
from loramux.lora.read_process.shared_memory import SharedFile
from loramux.lora.site import LoRASite

CHILD = "loramux.lora.read_process.child"
END_SECONDS = 5.0


class ChildProcess:
    """One run of the process.

    Args:
        on_end: called on a thread with this when the process has ended and has been waited for.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, on_end: Callable[[ChildProcess], None]) -> None:
        self.ready = threading.Event()
        self.is_closing = False
        self._on_end = on_end
        self._parent = os.getpid()
        self._control, theirs = socket_pair()
        with theirs:
            try:
                self._process = self._run(theirs.fileno())
            except OSError:
                self._control.close()
                raise
        self._watcher = threading.Thread(
            target=self._watch, name="loramux-read-process", daemon=True
        )
        self._watcher.start()

    def _run(self, descriptor: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", CHILD, str(descriptor), str(self._parent)],
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[descriptor],
            process_group=0,  # which no Ctrl-C at a terminal is sent to
        )

    @property
    def process_id(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    def tell_sites(self, sites: Sequence[LoRASite]) -> None:
        """What adapters may target; the process is ready when it knows."""
        file = SharedFile()
        try:
            file.append(pickle.dumps(list(sites)), 1)
            send(self._control, None, file.descriptor)
        finally:
            file.close()

    def ask(self, request: ReadRequest) -> Generator[tuple[object, int | None]]:
        """What it says to that, each with its descriptor, which is the caller's to close. Blocks.

        Raises:
            EOFError: the process has ended, or has said all.
            OSError: the connection broke.
        """
        ours, theirs = socket_pair()
        with ours:
            with theirs:
                send(self._control, request, theirs.fileno())
            while True:
                yield receive(ours)

    def close(self) -> None:
        """End the process, which has nothing to put in order."""
        self.is_closing = True
        if os.getpid() == self._parent:  # and not in a fork of it that ends
            self._process.kill()

    def join(self) -> None:
        """Wait until it has ended, unless storage that hangs keeps it."""
        self._watcher.join(END_SECONDS)

    def _watch(self) -> None:
        try:
            while True:
                receive(self._control)
                self.ready.set()
        except (EOFError, OSError):
            self._process.wait()
        self._control.close()
        self._on_end(self)


def child_environment() -> dict[str, str]:
    """This process's, with its import path, for a process that needs no GPU."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
