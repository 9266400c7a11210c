"""The process that reads adapters: ``python -m`` this module, started by an engine and no one else.

It needs two arguments: the number of the open socket to the engine, and the engine's process.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress

import torch

from loramux.errors import AdapterError
from loramux.lora.checkpoint.finite import Bytes
from loramux.lora.checkpoint.reader import read_adapter
from loramux.lora.read_process.messages import (
    READY,
    Answer,
    NotReadError,
    NotReadHere,
    ReadError,
    ReadMemory,
    ReadRequest,
    ReadResult,
    receive,
    send,
)
from loramux.lora.read_process.pair_table import PairWriter
from loramux.lora.read_process.shared_memory import SharedFile
from loramux.lora.read_process.spare_memory import SpareMemory
from loramux.lora.site import LoRASite

MAX_READING = 16
"""Adapters read at the same time; an engine asks for half as many unless it is told otherwise."""

NICENESS = 5
"""Where cores are scarce, the engine's thread goes first."""

SWITCH_SECONDS = 0.0001
"""Of threads that mostly compute outside of the interpreter; see ``server.interpreter``."""

PARENT_LOOK_SECONDS = 1.0


def main() -> None:
    """Read what is asked for until the engine is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the engine says when this ends
    control, parent = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    os.nice(NICENESS)
    sys.setswitchinterval(SWITCH_SECONDS)
    torch.set_num_threads(1)
    try:
        Server(control).serve()
    except (EOFError, OSError):
        os._exit(0)  # nothing here outlives the process, so nothing is waited for


def _end_with(parent: int) -> None:
    """End when the engine's process does, even if another has inherited its end of the socket."""
    while os.getppid() == parent:
        time.sleep(PARENT_LOOK_SECONDS)
    os._exit(0)


class Server:
    """Answers the requests of one engine, each on a thread."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._threads = ThreadPoolExecutor(MAX_READING, thread_name_prefix="loramux-adapter")
        self._memory = SpareMemory()
        self._sites = self._receive_sites()
        self._indices = {name: index for index, name in enumerate(self._sites)}

    def serve(self) -> None:
        """Take in requests.

        Raises:
            EOFError: the engine has closed the connection.
            OSError: it broke.
        """
        send(self._control, READY)
        while True:
            request, descriptor = receive(self._control)
            if descriptor is not None:  # else there were too many: the engine sees no answer come
                self._threads.submit(self._answer, request, socket.socket(fileno=descriptor))

    def _receive_sites(self) -> dict[str, LoRASite]:
        _, descriptor = receive(self._control)
        assert descriptor is not None, "a process begins with room for one more open file"
        with open(descriptor, "rb") as file:
            file.seek(0)
            sites: list[LoRASite] = pickle.load(file)
        return {site.name: site for site in sites}

    def _answer(self, request: ReadRequest, reply: socket.socket) -> None:
        with reply, suppress(OSError):  # whoever asked may be gone
            send(reply, self._read(request, reply))

    def _read(self, request: ReadRequest, reply: socket.socket) -> Answer:
        try:
            with ExitStack() as files:
                return self._read_into_memory(request, reply, files)
        except AdapterError as error:
            return ReadError(type(error), str(error), error.reason)
        except NotReadError as error:
            return NotReadHere(str(error))
        except Exception as error:  # the engine's own attempt shows whether it is the adapter's
            return NotReadHere(f"reading it failed ({error!r})")

    def _read_into_memory(
        self, request: ReadRequest, reply: socket.socket, files: ExitStack
    ) -> ReadResult:
        """The result; its memory is sent ahead, and its file is closed with ``files``."""
        taken: list[SharedFile] = []

        def allocate(size: int) -> Bytes:
            try:
                file = files.enter_context(closing(self._memory.take(size)))
                send(reply, ReadMemory(size), file.descriptor)
            except OSError as error:  # which would else be one of the adapter's storage
                raise NotReadError(f"there is no memory to share ({error})") from error
            taken.append(file)
            return file.content

        weights = read_adapter(
            request.directory,
            self._sites,
            max_rank=request.max_rank,
            base_names=request.base_names,
            max_bytes=request.max_bytes,
            allowed_directories=request.allowed_directories,
            base_parameter=_base_model_needed,
            allocate=allocate,
        )
        (file,) = taken
        start = PairWriter(file, self._indices).write(weights.pairs)
        return ReadResult(weights.digest, file.num_bytes, start, len(weights.pairs))


def _base_model_needed(name: str) -> torch.Tensor:
    raise NotReadError("it carries copies of base weights")


if __name__ == "__main__":
    main()
