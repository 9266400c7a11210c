"""The asynchronous engine: many callers on an event loop, one engine on a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from loramux.engine.args import EngineArgs
from loramux.engine.front.prompts import Prompt
from loramux.engine.llm_engine import LLMEngine, PreparedRequest, unstarted_output
from loramux.engine.mailbox import Mailbox, deliver
from loramux.engine.residency import Residency
from loramux.engine.start import start_engine
from loramux.engine.stats import EngineStats
from loramux.engine.structured.matcher import Grammar
from loramux.errors import EngineDeadError, InvalidRequestError
from loramux.logger import get_logger
from loramux.lora.adapter import Adapter, AdapterInfo
from loramux.lora.request import LoRARequest
from loramux.outputs import RequestOutput
from loramux.pooling_params import Params
from loramux.sampling_params import RequestOutputKind, SamplingParams

if TYPE_CHECKING:
    from loramux.engine.assembly import EngineParts

log = get_logger(__name__)

QUICK_TOKENS = 4096
"""Token ids that are checked within some 0.1 ms."""

SHUTDOWN_SECONDS = 30
"""A step takes milliseconds; one that takes this long will not end."""


class AsyncLLMEngine:
    """``LLMEngine`` behind coroutines. Everything slow happens on other threads than the loop's.

    Commands to the engine's thread are queued and carried out between two steps.
    """

    def __init__(self, parts: EngineParts) -> None:
        self.args = parts.args
        self.tokenizer = parts.tokenizer
        self.max_model_len = parts.max_model_len
        self._materializer = parts.materializer
        self._lora = parts.lora
        self._residency = _residency(parts)
        self._engine = LLMEngine(parts)
        self.pooling = self._engine.pooling
        self._commands: deque[Callable[[], object]] = deque()
        self._mailboxes: dict[str, Mailbox] = {}
        """Of callers who are here, by request id; changed on their event loops."""
        self._serving: dict[str, Mailbox] = {}
        """Of requests in the engine; changed on its thread."""
        self._error: EngineDeadError | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="loramux-engine", daemon=True)
        self._thread.start()

    @classmethod
    def from_engine_args(cls, args: EngineArgs) -> AsyncLLMEngine:
        """Load the model and start the engine's thread. Blocks while it loads.

        Raises:
            InvalidRequestError: the model or the arguments do not fit.
        """
        return cls(start_engine(args))

    async def generate(
        self,
        prompt: Prompt,
        sampling_params: Params,
        request_id: str,
        lora_request: LoRARequest | None = None,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Yield outputs as ``sampling_params.output_kind`` says, the last one ``finished``.

        With ``PoolingParams``, of an engine that makes embeddings, one ``PooledOutput``.

        Closing or cancelling the generator frees the request.

        Raises:
            InvalidRequestError: the request can never succeed as written.
            AdapterError: its adapter cannot be used.
            EngineDeadError: the engine has ended.
        """
        self._check_alive()
        mailbox = self._open_mailbox(request_id, sampling_params)
        finished = False
        try:
            grammar = await self._compile(sampling_params)
            prepare = partial(
                self._engine.prepare, request_id, prompt, sampling_params, lora_request, grammar
            )
            prepared = prepare() if _is_quick(prompt) else await asyncio.to_thread(prepare)
            adapter = None if lora_request is None else await self._load(lora_request)
            self._command(lambda: self._submit(prepared, adapter, mailbox))
            self._check_alive()  # the engine may have ended before it could see the command
            while not finished:
                output = await mailbox.get()
                finished = output.finished
                yield output
        finally:
            del self._mailboxes[request_id]
            if not finished:
                self._command(lambda: self._drop(request_id, mailbox))

    async def abort(self, request_id: str) -> None:
        """End a request; its generator finishes with ``finish_reason`` ``abort``.

        A request whose adapter is still being read ends when that is done.
        """
        self._command(lambda: self._abort(request_id))

    async def load_lora(self, lora_request: LoRARequest) -> AdapterInfo:
        """Find, read and validate an adapter, once however many ask at the same time.

        Raises:
            AdapterRefusedError: it cannot be served exactly.
            AdapterUnavailableError: its source cannot answer.
        """
        materializer = self._require_lora().materializer
        adapter = await self._load(lora_request)
        return materializer.info(lora_request.lora_name, adapter, self._resident())

    async def prefetch_lora(self, lora_request: LoRARequest) -> None:
        """:meth:`load_lora`, and place the adapter on the device.

        Raises:
            AdapterUnavailableError: it gets no room there in time.
        """
        residency = self._require_lora()
        await residency.place(lora_request.name, await self._load(lora_request))

    async def pin_lora(self, lora_request: LoRARequest) -> None:
        """:meth:`prefetch_lora`, and evict the adapter no more until it is unpinned or unloaded.

        Raises:
            InvalidRequestError: too many are pinned.
        """
        residency = self._require_lora()
        await residency.pin(lora_request, await self._load(lora_request))

    def unpin_lora(self, lora_name: str) -> bool:
        """Let an adapter be evicted again; tells whether it was pinned."""
        return self._residency is not None and self._residency.unpin(lora_name)

    async def unload_lora(self, lora_name: str) -> None:
        """Free the adapter of a name, on the device once the requests that run on it are over."""
        self.unpin_lora(lora_name)
        adapter = None if self._materializer is None else self._materializer.forget(lora_name)
        if adapter is not None and self._lora is not None:
            self._lora.pool.retire(adapter.digest)

    def adapter_infos(self) -> list[AdapterInfo]:
        """Adapters the engine knows, the latest asked for last."""
        return [] if self._residency is None else self._residency.infos()

    def stats(self) -> EngineStats:
        """What the engine has counted; whose adapter is still being read waits, too."""
        stats = self._engine.stats()
        coming = max(len(self._mailboxes) - len(self._serving), 0)
        return replace(stats, num_waiting=stats.num_waiting + coming)

    def adapter_stages(self, digest: str) -> dict[str, tuple[float, float]]:
        """When each stage of bringing an adapter here began and ended, by ``time.monotonic``."""
        adapter = None if self._materializer is None else self._materializer.adapter(digest)
        return {} if adapter is None else dict(adapter.stages)

    def default_sampling_params(self) -> dict[str, Any]:
        """Sampling parameters the model's makers recommend."""
        return self._engine.default_sampling_params()

    async def check_health(self) -> None:
        """Raises EngineDeadError once the engine has ended."""
        self._check_alive()

    async def shutdown(self) -> None:
        """End the engine's thread; requests that still run fail with EngineDeadError."""
        self._stopping = True
        self._engine.core.wake()
        await asyncio.to_thread(self._thread.join, SHUTDOWN_SECONDS)
        if self._thread.is_alive():
            log.error("the engine's thread did not end within %d s", SHUTDOWN_SECONDS)
        await asyncio.to_thread(self._engine.shutdown)

    async def _compile(self, params: Params) -> Grammar | None:
        form = params.form if isinstance(params, SamplingParams) else None
        return None if form is None else await self._engine.grammars.compile_later(form)

    async def _load(self, lora_request: LoRARequest) -> Adapter:
        assert self._residency is not None, "prepare() has checked that LoRA is on"
        return await self._residency.load(lora_request)

    def _require_lora(self) -> Residency:
        self._check_alive()
        if self._residency is None:
            raise InvalidRequestError(
                "This engine was started without LoRA; start it with --enable-lora.", "lora_name"
            )
        return self._residency

    def _resident(self) -> frozenset[str]:
        return frozenset() if self._lora is None else self._lora.pool.resident_digests

    def _open_mailbox(self, request_id: str, params: Params) -> Mailbox:
        if request_id in self._mailboxes:
            raise InvalidRequestError(
                f"Request id {request_id!r} is already in use; give each request its own.",
                "request_id",
            )
        kind = params.output_kind if isinstance(params, SamplingParams) else None
        mailbox = Mailbox(joins_deltas=kind is RequestOutputKind.DELTA)
        self._mailboxes[request_id] = mailbox
        return mailbox

    def _check_alive(self) -> None:
        if self._error is not None:
            raise self._error
        if self._stopping:
            raise EngineDeadError("The engine is shutting down and takes no more requests.")

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
            deliver([(mailbox, unstarted_output(prepared, "abort"))])
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
            self._engine.abort_request(request_id)

    def _hand_out(self, outputs: list[RequestOutput]) -> None:
        posts = [(self._serving[output.request_id], output) for output in outputs]
        for output in outputs:
            if output.finished:
                del self._serving[output.request_id]
        deliver(posts)


def _is_quick(prompt: Prompt) -> bool:
    """Whether a prompt is checked sooner than a thread could be asked to do so."""
    token_ids = prompt.get("prompt_token_ids") if isinstance(prompt, Mapping) else None
    return isinstance(token_ids, list) and len(token_ids) <= QUICK_TOKENS


def _residency(parts: EngineParts) -> Residency | None:
    if parts.lora is None or parts.materializer is None:
        return None
    return Residency(parts.materializer, parts.lora.pool, parts.args.max_loras)
