"""The asynchronous engine: many callers on an event loop, one engine on a thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from loramux.engine.args import EngineArgs
from loramux.engine.engine_thread import EngineThread
from loramux.engine.front.prompts import Prompt
from loramux.engine.llm_engine import LLMEngine
from loramux.engine.residency import Residency
from loramux.engine.start import start_engine
from loramux.engine.stats import EngineStats
from loramux.engine.structured.matcher import Grammar
from loramux.errors import InvalidRequestError
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
    """``LLMEngine`` behind coroutines. Everything slow happens on other threads than the loop's."""

    def __init__(self, parts: EngineParts) -> None:
        self.args = parts.args
        self.tokenizer = parts.tokenizer
        self.max_model_len = parts.max_model_len
        self._materializer = parts.materializer
        self._lora = parts.lora
        self._residency = _residency(parts)
        self._engine = LLMEngine(parts)
        self.pooling = self._engine.pooling
        self._thread = EngineThread(self._engine, parts.args.stream_interval)

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
        joins_deltas = _says_what_is_new(sampling_params)
        mailbox = self._thread.open_mailbox(request_id, joins_deltas=joins_deltas)
        finished = False
        try:
            grammar = await self._compile(sampling_params)
            prepare = partial(
                self._engine.prepare, request_id, prompt, sampling_params, lora_request, grammar
            )
            prepared = prepare() if _is_quick(prompt) else await asyncio.to_thread(prepare)
            adapter = None if lora_request is None else await self._load(lora_request)
            self._thread.submit(prepared, adapter, mailbox)
            while not finished:
                output = await mailbox.get()
                finished = output.finished
                yield output
        finally:
            self._thread.close_mailbox(request_id, mailbox, finished=finished)

    async def abort(self, request_id: str) -> None:
        """End a request; its generator finishes with ``finish_reason`` ``abort``.

        A request whose adapter is still being read ends when that is done.
        """
        self._thread.abort(request_id)

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
        """Free what a name means, on the device once the requests that run on it are over."""
        self.unpin_lora(lora_name)
        if self._materializer is None or self._lora is None:
            return
        for adapter in self._materializer.forget(lora_name):
            self._lora.pool.retire(adapter.digest)

    def adapter_infos(self) -> list[AdapterInfo]:
        """Adapters the engine knows, the latest asked for last."""
        return [] if self._residency is None else self._residency.infos()

    def stats(self) -> EngineStats:
        """What the engine has counted; whose adapter is still being read waits, too."""
        stats = self._engine.stats()
        return replace(stats, num_waiting=stats.num_waiting + self._thread.num_coming)

    def adapter_stages(self, digest: str) -> dict[str, tuple[float, float]]:
        """When each stage of bringing an adapter here began and ended, by ``time.monotonic``."""
        adapter = None if self._materializer is None else self._materializer.adapter(digest)
        return {} if adapter is None else dict(adapter.stages)

    def default_sampling_params(self) -> dict[str, Any]:
        """Sampling parameters the model's makers recommend."""
        return self._engine.default_sampling_params()

    async def check_health(self) -> None:
        """Raises EngineDeadError once the engine has ended."""
        self._thread.check_alive()

    async def shutdown(self) -> None:
        """End the engine's thread; requests that still run fail with EngineDeadError."""
        if not await asyncio.to_thread(self._thread.stop, SHUTDOWN_SECONDS):
            log.error("the engine's thread did not end within %d s", SHUTDOWN_SECONDS)
        await asyncio.to_thread(self._engine.shutdown)

    async def _compile(self, params: Params) -> Grammar | None:
        form = params.form if isinstance(params, SamplingParams) else None
        return None if form is None else await self._engine.grammars.compile_later(form)

    async def _load(self, lora_request: LoRARequest) -> Adapter:
        assert self._residency is not None, "prepare() has checked that LoRA is on"
        return await self._residency.load(lora_request)

    def _require_lora(self) -> Residency:
        self._thread.check_alive()
        if self._residency is None:
            raise InvalidRequestError(
                "This engine was started without LoRA; start it with --enable-lora.", "lora_name"
            )
        return self._residency

    def _resident(self) -> frozenset[str]:
        return frozenset() if self._lora is None else self._lora.pool.resident_digests


def _is_quick(prompt: Prompt) -> bool:
    """Whether a prompt is checked sooner than a thread could be asked to do so."""
    token_ids = prompt.get("prompt_token_ids") if isinstance(prompt, Mapping) else None
    return isinstance(token_ids, list) and len(token_ids) <= QUICK_TOKENS


def _says_what_is_new(params: Params) -> bool:
    """Whether each output of a request says what is new since the one before."""
    return isinstance(params, SamplingParams) and params.output_kind is RequestOutputKind.DELTA


def _residency(parts: EngineParts) -> Residency | None:
    if parts.lora is None or parts.materializer is None:
        return None
    return Residency(parts.materializer, parts.lora.pool, parts.args.max_loras)
