"""A reading process as its engine has it: asked, replaced by another, ended."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

from loramux.logger import get_logger
from loramux.lora.packed_weights import PackedWeights
from loramux.lora.read_process.child_process import ChildProcess
from loramux.lora.read_process.coming_memory import ComingMemory
from loramux.lora.read_process.messages import (
    NotReadError,
    NotReadHere,
    ReadError,
    ReadMemory,
    ReadRequest,
    ReadResult,
)
from loramux.lora.read_process.pair_table import read_pairs
from loramux.lora.site import LoRASite

log = get_logger(__name__)

MAX_UNREADY = 3
"""Processes killed one after another before they were ready, after which none is started."""


class ReadProcess:
    """A process that reads adapters, replaced by another should it end.

    Until it is ready, and whenever it cannot help, ``read`` says so at once.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        self._sites: Sequence[LoRASite] | None = None
        self._num_unready = 0
        self._child = self._start()
        self.num_reading = 0
        """Adapters being read, for choosing among processes."""

    def serve(self, sites: Sequence[LoRASite]) -> None:
        """Say what adapters may target, after which they can be read."""
        with self._lock:
            self._sites = sites
            self._tell(self._child, sites)

    def read(self, request: ReadRequest) -> PackedWeights:
        """Read and check one adapter; blocking.

        Raises:
            AdapterError: what reading it here would have raised, word for word.
            NotReadError: it has to be read here.
        """
        child = self._child
        if not child.ready.is_set():
            raise NotReadError("the reading process is not ready")
        with self._counted(), ComingMemory() as memory:
            return self._weights(_answer(child, request, memory), memory)

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

    def _start(self) -> ChildProcess:
        me = weakref.ref(self)

        def replace(ended: ChildProcess) -> None:
            owner = me()
            if owner is not None and not ended.is_closing:
                owner._replace(ended)

        child = ChildProcess(replace)
        self._end = weakref.finalize(self, child.close)
        return child

    def _replace(self, ended: ChildProcess) -> None:
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

    def _is_hopeless(self, ended: ChildProcess) -> bool:
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
            self._tell(self._child, self._sites)

    def _tell(self, child: ChildProcess, sites: Sequence[LoRASite] | None) -> None:
        if sites is None:
            return  # it ended while the model was loaded; the next hears of them in time
        try:
            child.tell_sites(sites)
        except OSError as error:  # it has ended, and whoever watches it says so
            log.debug("the process that reads adapters does not listen: %s", error)

    def _weights(self, answer: object, memory: ComingMemory) -> PackedWeights:
        if isinstance(answer, ReadError):
            raise answer.kind(answer.message, answer.reason)
        if isinstance(answer, NotReadHere):
            raise NotReadError(answer.reason)
        assert isinstance(answer, ReadResult), "there is no other answer"
        content = memory.content(answer.num_bytes)
        assert self._sites is not None, "a process is ready when it knows them"
        pairs = read_pairs(content, answer.table_start, answer.num_pairs, self._sites)
        return PackedWeights(answer.digest, pairs)


def _answer(child: ChildProcess, request: ReadRequest, memory: ComingMemory) -> object:
    """What the process says in the end; ``memory`` is made ready as soon as it is named."""
    try:
        with closing(child.ask(request)) as said:
            answer, descriptor = next(said)
            if isinstance(answer, ReadMemory):
                memory.map(descriptor, answer.num_bytes)
                answer, _ = next(said)
    except (EOFError, OSError) as error:
        raise NotReadError(f"the reading process gives no answer ({error!r})") from error
    return answer
