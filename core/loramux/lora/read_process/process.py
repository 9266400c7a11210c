"""The engine's side of one reading process: it is started, asked, replaced and ended."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from loramux.logger import get_logger
from loramux.lora.packed_weights import PackedWeights
from loramux.lora.read_process.messages import (
    NotReadHere,
    ReadError,
    ReadRequest,
    ReadResult,
    receive,
    send,
    socket_pair,
)
from loramux.lora.read_process.pair_table import read_pairs
from loramux.lora.read_process.shared_memory import SharedFile, map_shared
from loramux.lora.site import LoRASite

log = get_logger(__name__)

CHILD = "loramux.lora.read_process.child"
END_SECONDS = 5.0

MAX_UNREADY = 3
"""Processes killed one after another before they were ready, after which none is started."""


class NotReadError(Exception):
    """The adapter was not read there, through no fault of its own; reading it here is left."""


class Child:
    """One run of the process.

    Args:
        on_end: called on a thread with this when the process has ended and has been waited for.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, on_end: Callable[[Child], None]) -> None:
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
            env=_environment(),
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

    def ask(self, request: ReadRequest) -> tuple[object, int | None]:
        """The answer and its descriptor, which is the caller's to close. Blocks.

        Raises:
            EOFError: the process has ended.
            OSError: the connection broke.
        """
        ours, theirs = socket_pair()
        with ours:
            with theirs:
                send(self._control, request, theirs.fileno())
            return receive(ours)

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


class ReadProcess:
    """A process that reads adapters, replaced by another should it end.

    Until it is ready, and whenever it cannot help, ``read`` says so at once.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        self._sites: Sequence[LoRASite] = ()
        self._num_unready = 0
        self._child = self._start()
        self.num_reading = 0
        """Adapters being read, for choosing among processes."""

    def serve(self, sites: Sequence[LoRASite]) -> None:
        """Say what adapters may target, after which they can be read."""
        with self._lock:
            self._sites = sites
            self._tell(self._child)

    def read(self, request: ReadRequest) -> PackedWeights:
        """Read and check one adapter; blocking.

        Raises:
            AdapterError: what reading it here would have raised, word for word.
            NotReadError: it has to be read here.
        """
        child = self._child
        if not child.ready.is_set():
            raise NotReadError("the reading process is not ready")
        try:
            with self._counted():
                answer, descriptor = child.ask(request)
        except (EOFError, OSError) as error:
            raise NotReadError(f"the reading process gives no answer ({error!r})") from error
        try:
            return self._weights(answer, descriptor)
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def wait_until_ready(self, seconds: float) -> bool:
        """Whether it can read within so many seconds."""
        return self._child.ready.wait(seconds)

    @property
    def process_id(self) -> int:
        return self._child.process_id

    def shutdown(self) -> None:
        """End the process; what it is reading is left."""
        with self._lock:
            child = self._child
            child.close()
        child.join()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._counting:
            self.num_reading += 1
        try:
            yield
        finally:
            with self._counting:
                self.num_reading -= 1

    def _start(self) -> Child:
        me = weakref.ref(self)

        def replace(ended: Child) -> None:
            owner = me()
            if owner is not None and not ended.is_closing:
                owner._replace(ended)

        child = Child(replace)
        self._end = weakref.finalize(self, child.close)
        return child

    def _replace(self, ended: Child) -> None:
        """Start another process, unless it is bound to end like the last ones."""
        if self._is_hopeless(ended):
            log.error(
                "the process that reads adapters ended with status %s before it was ready; "
                "they are read in this one from now on",
                ended.returncode,
            )
            return
        log.warning(
            "the process that reads adapters ended with status %s; another one is started",
            ended.returncode,
        )
        ended.ready.clear()
        self._end.detach()
        with self._lock:
            if not ended.is_closing:
                self._begin_again()

    def _is_hopeless(self, ended: Child) -> bool:
        """Whether it ended by itself before it was ready, or was killed then too often."""
        self._num_unready = 0 if ended.ready.is_set() else self._num_unready + 1
        assert ended.returncode is not None, "it has been waited for"
        return self._num_unready > 0 and (ended.returncode >= 0 or self._num_unready >= MAX_UNREADY)

    def _begin_again(self) -> None:
        try:
            self._child = self._start()
        except OSError as error:
            log.error("no other process can be started (%s); adapters are read in this one", error)
        else:
            self._tell(self._child)

    def _tell(self, child: Child) -> None:
        try:
            child.tell_sites(self._sites)
        except OSError as error:  # it has ended, and whoever watches it says so
            log.debug("the process that reads adapters does not listen: %s", error)

    def _weights(self, answer: object, descriptor: int | None) -> PackedWeights:
        if isinstance(answer, ReadError):
            raise answer.kind(answer.message)
        if isinstance(answer, NotReadHere):
            raise NotReadError(answer.reason)
        assert isinstance(answer, ReadResult), "there is no other answer"
        if descriptor is None:
            raise NotReadError("this process has too many open files")
        try:
            content = map_shared(descriptor, answer.num_bytes)
        except OSError as error:
            raise NotReadError(f"its memory cannot be mapped ({error})") from error
        pairs = read_pairs(content, answer.table_start, answer.num_pairs, self._sites)
        return PackedWeights(answer.digest, pairs)


def _environment() -> dict[str, str]:
    """This process's, with its import path, and without GPUs, which reading needs none of."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
