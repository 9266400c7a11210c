"""An engine without a model: it repeats the prompt, and does what a test tells it to do."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from loramux.engine.args import EngineArgs
from loramux.engine.stats import EngineStats
from loramux.errors import EngineDeadError, InvalidRequestError
from loramux.lora.request import LoRARequest
from loramux.outputs import CompletionOutput, Logprob, RequestOutput
from loramux.sampling_params import RequestOutputKind, SamplingParams
from tests.server.tokenizer import byte_tokenizer

MODEL = "tiny/base"
MAX_MODEL_LEN = 256


@dataclass(frozen=True)
class FakeAdapterInfo:
    name: str
    digest: str
    path: str
    rank: int = 8
    num_bytes: int = 1024
    tier: str = "host"
    load_seconds: dict[str, float] = field(default_factory=lambda: {"read": 0.25})
    references: int = 0
    is_pinned: bool = False


class FakeEngine:
    """Answers with the prompt itself, again and again; with an adapter, in the other case.

    ``failures`` maps a prompt or an adapter's path to the error it ends in; ``fails_after`` is
    the number of tokens before that. ``is_held`` holds every token and every load back while set.
    """

    def __init__(self) -> None:
        self.args = EngineArgs(model=MODEL, served_model_name=["base", "tiny"], enable_lora=True)
        self.max_model_len = MAX_MODEL_LEN
        self.tokenizer: Any = byte_tokenizer()
        self.pooling = None
        self.running: set[str] = set()
        self.served: list[str] = []
        self.params: list[SamplingParams] = []
        self.adapters: list[LoRARequest | None] = []
        self.prompts: list[Any] = []
        self.loads: list[LoRARequest] = []
        self.loads_cancelled = 0
        self.unloaded: list[str] = []
        self.placed: list[str] = []
        self.pinned: list[str] = []
        self.failures: dict[str, Exception] = {}
        self.load_failures: dict[str, Exception] = {}
        self.fails_after = 0
        self.token_seconds = 0.0
        self.load_seconds = 0.0
        self.is_held = False
        self.is_dead = False
        self.defaults: dict[str, Any] = {}

    async def generate(
        self,
        prompt: Any,
        sampling_params: SamplingParams,
        request_id: str,
        lora_request: LoRARequest | None = None,
    ) -> AsyncGenerator[RequestOutput, None]:
        assert request_id not in self.served, "request ids must be unique"
        self.running.add(request_id)
        self.served.append(request_id)
        self.params.append(sampling_params)
        self.adapters.append(lora_request)
        self.prompts.append(prompt)
        try:
            async for output in self._outputs(prompt, sampling_params, request_id, lora_request):
                yield output
        finally:
            self.running.discard(request_id)

    async def load_lora(self, lora_request: LoRARequest) -> FakeAdapterInfo:
        self.loads.append(lora_request)
        try:
            await self._pause(self.load_seconds)
        except asyncio.CancelledError:
            self.loads_cancelled += 1
            raise
        if error := self.load_failures.get(lora_request.path):
            raise error
        return FakeAdapterInfo(lora_request.name, digest_of(lora_request), lora_request.path)

    async def prefetch_lora(self, lora_request: LoRARequest) -> None:
        self.placed.append(lora_request.name)

    async def pin_lora(self, lora_request: LoRARequest) -> None:
        self.pinned.append(lora_request.name)

    def unpin_lora(self, lora_name: str) -> bool:
        was_pinned = lora_name in self.pinned
        self.pinned = [name for name in self.pinned if name != lora_name]
        return was_pinned

    async def unload_lora(self, lora_name: str) -> None:
        self.unloaded.append(lora_name)

    def adapter_infos(self) -> list[FakeAdapterInfo]:
        last = {request.name: request for request in self.loads}
        return [
            FakeAdapterInfo(name, digest_of(request), request.path, is_pinned=name in self.pinned)
            for name, request in last.items()
        ]

    def stats(self) -> EngineStats:
        return EngineStats(num_running=len(self.running))

    def adapter_stages(self, digest: str) -> dict[str, tuple[float, float]]:
        return {}

    def default_sampling_params(self) -> dict[str, Any]:
        return self.defaults

    async def check_health(self) -> None:
        if self.is_dead:
            raise EngineDeadError("The engine has ended; start the server again.")

    async def shutdown(self) -> None:
        pass

    async def _outputs(
        self,
        prompt: Any,
        params: SamplingParams,
        request_id: str,
        lora_request: LoRARequest | None,
    ) -> AsyncGenerator[RequestOutput, None]:
        prompt_ids = prompt["prompt_token_ids"]
        self._check(prompt_ids)
        text = self.tokenizer.decode(prompt_ids)
        error = self.failures.get(text)
        answer_ids = self._answer(text, params.max_tokens or MAX_MODEL_LEN, lora_request)
        is_delta = params.output_kind is RequestOutputKind.DELTA
        state = _State(self, prompt_ids, params, request_id, lora_request)
        for position in range(len(answer_ids)):
            if error is not None and position == self.fails_after:
                raise error
            await self._pause(self.token_seconds)
            is_last = position == len(answer_ids) - 1
            if is_delta:
                for output in state.deltas(answer_ids[position : position + 1], position, is_last):
                    yield output
        if not is_delta:
            yield state.output(answer_ids, range(params.n), True, True)

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        while self.is_held:
            await asyncio.sleep(0.01)

    def _check(self, prompt_ids: list[int]) -> None:
        if not prompt_ids or not all(0 <= each < len(self.tokenizer) for each in prompt_ids):
            raise InvalidRequestError("The prompt is empty, or outside the vocabulary.", "prompt")

    def _answer(self, text: str, max_tokens: int, adapter: LoRARequest | None) -> list[int]:
        source = text.swapcase() if adapter else text
        ids = self.tokenizer(source)["input_ids"]
        room = MAX_MODEL_LEN - len(self.tokenizer(text)["input_ids"])
        return (ids * (max_tokens // len(ids) + 1))[: min(max_tokens, room)]


@dataclass
class _State:
    engine: FakeEngine
    prompt_ids: list[int]
    params: SamplingParams
    request_id: str
    lora_request: LoRARequest | None

    def deltas(self, ids: list[int], position: int, is_last: bool) -> Iterator[RequestOutput]:
        """Completions one by one; only the very first output carries the prompt's logprobs."""
        for index in range(self.params.n):
            yield self.output(ids, [index], position == index == 0, is_last)

    def output(
        self, ids: list[int], indices: Iterable[int], is_first: bool, is_last: bool
    ) -> RequestOutput:
        completions = [
            CompletionOutput(
                index=index,
                text=self.engine.tokenizer.decode(ids),
                token_ids=ids,
                logprobs=self._logprobs(ids, self.params.logprobs),
                finish_reason="length" if is_last else None,
                lora_request=self.lora_request,
            )
            for index in indices
        ]
        prompt_steps = self._logprobs(self.prompt_ids, self.params.prompt_logprobs)
        return RequestOutput(
            request_id=self.request_id,
            prompt=None,
            prompt_token_ids=self.prompt_ids,
            outputs=completions,
            finished=is_last and completions[-1].index == self.params.n - 1,
            lora_request=self.lora_request,
            adapter_digest=self.lora_request and digest_of(self.lora_request),
            prompt_logprobs=[None, *prompt_steps[1:]] if prompt_steps and is_first else None,
            num_cached_tokens=1,
        )

    def _logprobs(self, ids: list[int], top: int | None) -> list[dict[int, Logprob]] | None:
        if top is None:
            return None
        return [self._step(token_id, top) for token_id in ids]

    def _step(self, token_id: int, top: int) -> dict[int, Logprob]:
        """The chosen token is the second likeliest, the likeliest is the one after it."""
        step = {token_id: Logprob(-0.75, 2, self.engine.tokenizer.decode([token_id]))}
        for rank in range(1, top + 1):
            other = (token_id + rank) % 256
            text = self.engine.tokenizer.decode([other])
            logprob = float("-inf") if rank == 3 else -0.5 * rank
            step.setdefault(other, Logprob(logprob, rank, text))
        return step


def digest_of(request: LoRARequest) -> str:
    return hashlib.sha256(os.fsencode(request.path)).hexdigest()
