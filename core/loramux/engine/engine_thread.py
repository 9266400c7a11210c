"""The thread that drives an engine for callers on event loops."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial

from loramux.engine.llm_engine import LLMEngine
from loramux.engine.mailbox import Mailbox, deliver
from loramux.engine.pacing import Pacing
from loramux.engine.prepared_request import PreparedRequest, id_in_use
from loramux.errors import EngineDeadError
from loramux.logger import get_logger
from loramux.lora.adapter import Adapter
from loramux.outputs import RequestOutput

log = get_logger(__name__)


class EngineThread:
    """Steps an engine for as long as it has something to do.

    What callers ask for is queued, and carried out between two steps. Every public method may be
    called on any event loop, with a mailbox on the one that it was opened on.

    Args:
        stream_interval: as ``Pacing`` says.
    """

    def __init__(self, engine: LLMEngine, stream_interval: int | None = None) -> None:
        self._engine = engine
        self._pacing = Pacing(stream_interval)
        self._commands: deque[Callable[[], object]] = deque()
        self._mailboxes: dict[str, Mailbox] = {}
        """Of callers who are here, by request id; changed on their event loops."""
        self._serving: dict[str, Mailbox] = {}
        """Of requests in the engine; changed on its thread."""
        self._error: EngineDeadError | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="loramux-engine", daemon=True)
        self._thread.start()

    @property
    def num_coming(self) -> int:
        """Requests of callers who are here that the engine has not been given yet."""
        return max(len(self._mailboxes) - len(self._serving), 0)

    def check_alive(self) -> None:
        """Raises EngineDeadError once the engine has ended or is about to."""
        if self._error is not None:
            raise self._error
        if self._stopping:
            raise EngineDeadError("The engine is shutting down and takes no more requests.")

    def open_mailbox(self, request_id: str, *, joins_deltas: bool) -> Mailbox:
        """Where the outputs of a request will be found; see ``Mailbox``.

        Raises:
            EngineDeadError: the engine has ended.
            InvalidRequestError: the id is in use.
        """
        self.check_alive()
        if request_id in self._mailboxes:
            raise id_in_use(request_id)
        mailbox = self._mailboxes[request_id] = Mailbox(joins_deltas=joins_deltas)
        return mailbox

    def submit(self, prepared: PreparedRequest, adapter: Adapter | None, mailbox: Mailbox) -> None:
        """Give a request to the engine, unless it was aborted meanwhile.

        Raises:
            EngineDeadError: the engine has ended, perhaps before it could see the request.
        """
        self._command(partial(self._submit, prepared, adapter, mailbox))
        self.check_alive()

    def abort(self, request_id: str) -> None:
        """End a request with the outputs it has, at once or as soon as it is submitted."""
        self._command(partial(self._abort, request_id))

    def close_mailbox(self, request_id: str, mailbox: Mailbox, *, finished: bool) -> None:
        """The caller goes away; its request is freed, if it has not finished."""
        del self._mailboxes[request_id]
        if not finished:
            self._command(partial(self._drop, request_id, mailbox))

    def stop(self, timeout: float) -> bool:
        """End the thread, which tells all who wait; whether it ended in so many seconds. Blocks."""
        self._stopping = True
        self._engine.core.wake()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _command(self, command: Callable[[], object]) -> None:
        self._commands.append(command)
        self._engine.core.wake()

    # From here on, everything runs on the engine's thread.

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._turn()
            error = EngineDeadError("The engine was shut down while the request was running.")
        except BaseException as fatal:  # a library may panic; callers must not wait for ever
            log.exception("the engine has ended")
            error = EngineDeadError(f"The engine has ended: {fatal!r}")
        self._error = error
        deliver(self._pacing.take_all())
        deliver((mailbox, error) for mailbox in list(self._mailboxes.values()))

    def _turn(self) -> None:
        while self._commands:
            self._commands.popleft()()
        if not self._engine.has_unfinished_requests():
            self._engine.core.wait_for_change(timeout=1.0)
            self._engine.core.collect_adapters()
            return
        self._hand_out(self._engine.step())

    def _submit(self, prepared: PreparedRequest, adapter: Adapter | None, mailbox: Mailbox) -> None:
        if mailbox.is_aborted:
            deliver([(mailbox, prepared.unstarted("abort"))])
            return
        try:
            self._engine.submit(prepared, adapter)
        except Exception as error:
            deliver([(mailbox, error)])
        else:
            self._serving[prepared.request_id] = mailbox

    def _abort(self, request_id: str) -> None:
        self._hand_out(self._engine.abort_request(request_id))
        mailbox = self._mailboxes.get(request_id)
        if mailbox is not None:
            mailbox.is_aborted = True

    def _drop(self, request_id: str, mailbox: Mailbox) -> None:
        """Free the request of a caller who has gone, unless the id is another's by now."""
        if self._serving.get(request_id) is mailbox:
            del self._serving[request_id]
            self._pacing.forget(mailbox)
            self._engine.abort_request(request_id)

    def _hand_out(self, outputs: list[RequestOutput]) -> None:
        posts = [(self._serving[output.request_id], output) for output in outputs]
        due = self._pacing.due(posts, len(self._serving))
        for output in outputs:
            if output.finished:
                del self._serving[output.request_id]
        deliver(due)
