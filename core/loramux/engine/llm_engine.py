"""The synchronous engine: requests in, one step at a time, outputs with text out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol

from loramux.engine.args import EngineArgs
from loramux.engine.front.output_processor import OutputProcessor, ProcessedOutputs
from loramux.engine.front.pooling_outputs import PoolingOutputs
from loramux.engine.front.prompts import Prompt
from loramux.engine.front.request_state import FrontRequest
from loramux.engine.messages import CoreOutput
from loramux.engine.prepared_request import PreparedRequest, id_in_use
from loramux.engine.start import start_engine
from loramux.engine.stats import EngineStats, read_stats
from loramux.engine.structured.matcher import Grammar
from loramux.errors import InvalidRequestError
from loramux.lora.adapter import Adapter
from loramux.lora.request import LoRARequest
from loramux.outputs import RequestOutput
from loramux.pooling_params import Params
from loramux.sampling_params import SamplingParams

if TYPE_CHECKING:
    from loramux.engine.assembly import EngineParts

IDLE_WAIT = 0.05
"""Seconds a step waits for an adapter when there is nothing to compute."""


class Outputs(Protocol):
    """The engine's front: texts or embeddings of what the core sends."""

    def add_request(self, request: FrontRequest[Any]) -> None: ...
    def process(self, core_outputs: Sequence[CoreOutput]) -> ProcessedOutputs: ...
    def abort(self, request_id: str) -> ProcessedOutputs: ...


class LLMEngine:
    """Runs requests with and without adapters in one batch, driven by ``step``.

    One thread drives an engine. A request whose adapter is still being read waits without
    holding anybody up; one whose adapter turns out to be unusable ends with ``error`` set.
    """

    def __init__(self, parts: EngineParts) -> None:
        self.args = parts.args
        self.tokenizer = parts.tokenizer
        self.max_model_len = parts.max_model_len
        self.requests = parts.requests
        self.grammars = parts.requests.grammars
        self.materializer = parts.materializer
        self.core = parts.core
        self._lora = parts.lora
        self.pooling = parts.requests.pooling
        self._outputs = _outputs_of(parts)
        self._loading: dict[str, tuple[PreparedRequest, Future[Adapter]]] = {}
        self._sequence_ids: dict[str, list[str]] = {}

    @classmethod
    def from_engine_args(cls, args: EngineArgs) -> LLMEngine:
        """Load the model and start an engine on it.

        Raises:
            InvalidRequestError: the model or the arguments do not fit.
        """
        return cls(start_engine(args))

    def add_request(
        self,
        request_id: str,
        prompt: Prompt,
        params: Params,
        lora_request: LoRARequest | None = None,
    ) -> None:
        """Take a request in; ``step`` will tell how it goes.

        Raises:
            InvalidRequestError: it can never succeed as written.
        """
        self._check_id(request_id)
        prepared = self.prepare(request_id, prompt, params, lora_request)
        if lora_request is None:
            self.submit(prepared, None)
            return
        assert self.materializer is not None, "prepare() has checked that LoRA is on"
        future = self.materializer.load(lora_request)
        future.add_done_callback(lambda _: self.core.wake())
        self._loading[request_id] = (prepared, future)

    def has_unfinished_requests(self) -> bool:
        return bool(self._loading or self._sequence_ids)

    def get_num_unfinished_requests(self) -> int:
        return len(self._loading) + len(self._sequence_ids)

    def abort_request(self, request_id: str | Iterable[str]) -> list[RequestOutput]:
        """Free requests at once, and return what they had; unknown ids are passed over."""
        outputs = []
        for one in [request_id] if isinstance(request_id, str) else request_id:
            if one in self._loading:
                request, future = self._loading.pop(one)
                future.cancel()
                outputs.append(request.unstarted("abort"))
            self.core.abort(self._sequence_ids.pop(one, ()))
            outputs += self._outputs.abort(one).request_outputs
        return outputs

    def step(self) -> list[RequestOutput]:
        """Run the model once and return what it brought, finished requests included."""
        outputs = self._submit_loaded()
        processed = self._outputs.process(self.core.step())
        self.core.abort(processed.to_abort)
        outputs += processed.request_outputs
        for output in outputs:
            if output.finished:
                self._sequence_ids.pop(output.request_id, None)
        if not outputs and self.has_unfinished_requests():
            self._wait_if_idle()
        return outputs

    def prepare(
        self,
        request_id: str,
        prompt: Prompt,
        params: Params,
        lora_request: LoRARequest | None,
        grammar: Grammar | None = None,
    ) -> PreparedRequest:
        """Check and tokenize a request, on any thread: nothing of the engine's state is read.

        Args:
            grammar: of the request's structured output, where it has been compiled already.

        Raises:
            InvalidRequestError: it can never succeed as written.
        """
        self._check_lora(lora_request)
        self.requests.check(params)
        tokenized = self.requests.tokenize(prompt)
        if grammar is None and isinstance(params, SamplingParams) and params.form is not None:
            grammar = self.grammars.compile(params.form)
        return PreparedRequest(request_id, tokenized, params, lora_request, grammar)

    def submit(self, request: PreparedRequest, adapter: Adapter | None) -> None:
        """Hand a prepared request, its adapter known, to the core.

        Raises:
            InvalidRequestError: its id is in use.
        """
        self._check_id(request.request_id)
        ids = [f"{request.request_id}/{index}" for index in range(request.params.n)]
        sequences = self.requests.sequences(
            ids, request.prompt, request.params, adapter, request.grammar
        )
        self._outputs.add_request(
            FrontRequest(
                request_id=request.request_id,
                sequence_ids=ids,
                prompt=request.prompt.text,
                prompt_token_ids=request.prompt.token_ids,
                params=request.params,
                lora_request=request.lora_request,
            )
        )
        self._sequence_ids[request.request_id] = ids
        for sequence in sequences:
            self.core.add(sequence)
        if adapter is not None and self._lora is not None:
            self._lora.pool.count_request(adapter)

    def stats(self) -> EngineStats:
        """What the engine has counted; may be asked on any thread."""
        return read_stats(self.core, self.materializer, self._lora)

    def default_sampling_params(self) -> dict[str, Any]:
        """Sampling parameters the model's makers recommend."""
        return self.requests.default_sampling_params()

    def shutdown(self) -> None:
        """End the threads that load adapters and compile grammars."""
        self.grammars.close()
        if self.materializer is not None:
            self.materializer.shutdown()
        if self._lora is not None:
            self._lora.shutdown()

    def _check_id(self, request_id: str) -> None:
        if request_id in self._sequence_ids or request_id in self._loading:
            raise id_in_use(request_id)

    def _check_lora(self, request: LoRARequest | None) -> None:
        if request is None:
            return
        if not isinstance(request, LoRARequest):
            raise InvalidRequestError(
                f"lora_request must be a LoRARequest, got {type(request).__name__}; "
                "give LoRARequest(name, id, path).",
                "lora_request",
            )
        if not self.args.enable_lora:
            raise InvalidRequestError(
                f"Adapter {request.lora_name!r} was asked for, but this engine was started "
                "without LoRA; start it with enable_lora (--enable-lora).",
                "lora_request",
            )

    def _submit_loaded(self) -> list[RequestOutput]:
        """Start the requests whose adapter has been read; end those whose adapter is unusable."""
        done = [entry for entry in self._loading.values() if entry[1].done()]
        failed = []
        for request, future in done:
            del self._loading[request.request_id]
            error = future.exception()
            if error is None:
                self.submit(request, future.result())
            else:
                reason = error if isinstance(error, Exception) else RuntimeError(repr(error))
                failed.append(request.unstarted("error", reason))
        return failed

    def _wait_if_idle(self) -> None:
        """Nothing was computed: all that is unfinished waits for adapters."""
        if not self.core.scheduler.running:
            self.core.wait_for_change(IDLE_WAIT)


def _outputs_of(parts: EngineParts) -> Outputs:
    if parts.requests.pooling is not None:
        return PoolingOutputs(parts.requests.pooling)
    return OutputProcessor(parts.tokenizer)
