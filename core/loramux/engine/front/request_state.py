"""A request as the front follows it, from the first output to the last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from loramux.engine.front.completion import Completion, TokenText, decoded_logprobs
from loramux.engine.messages import CoreOutput
from loramux.lora.request import LoRARequest
from loramux.outputs import RequestOutput, TokenLogprobs
from loramux.sampling_params import RequestOutputKind, SamplingParams

Params = TypeVar("Params")


@dataclass(frozen=True, slots=True)
class FrontRequest(Generic[Params]):
    """What the front has to know of a request.

    Args:
        request_id: the caller's name of it.
        prompt: its text, if it came as text.
        prompt_token_ids: what the core was given.
        params: its ``SamplingParams``, or ``PoolingParams`` where embeddings are made.
        sequence_ids: the core's names of its ``params.n`` completions, in order.
        lora_request: the adapter it asked for.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    params: Params
    sequence_ids: list[str]
    lora_request: LoRARequest | None = None


class RequestState:
    """Joins the completions of one request into its outputs."""

    __slots__ = (
        "_adapter_digest",
        "_completions",
        "_error",
        "_first_scheduled_time",
        "_kind",
        "_num_cached_tokens",
        "_prompt_logprobs",
        "_token_text",
        "request",
    )

    def __init__(
        self,
        request: FrontRequest[SamplingParams],
        completions: list[Completion],
        token_text: TokenText,
    ) -> None:
        self.request = request
        self._completions = completions
        self._token_text = token_text
        self._kind = request.params.output_kind
        self._adapter_digest: str | None = None
        self._num_cached_tokens = 0
        self._first_scheduled_time = 0.0
        self._error: Exception | None = None
        asked = request.params.prompt_logprobs is not None
        self._prompt_logprobs: list[TokenLogprobs | None] | None = [None] if asked else None

    @property
    def finished(self) -> bool:
        return None not in [completion.finish_reason for completion in self._completions]

    @property
    def _awaits_scores(self) -> bool:
        """Whether log probabilities of the prompt are to come, which its first output has all of.

        A completion that does not score the prompt may be ahead of the one that does.
        """
        known = self._prompt_logprobs
        return known is not None and len(known) < len(self.request.prompt_token_ids)

    def update(self, completion: Completion, output: CoreOutput) -> None:
        """Take in what a step brought for one of the completions."""
        if output.adapter_digest is not None:
            self._adapter_digest = output.adapter_digest
        # The later completions find the first one's prompt in the prefix cache.
        if completion.index == 0:
            self._first_scheduled_time = output.first_scheduled_time
            self._num_cached_tokens = max(self._num_cached_tokens, output.num_cached_tokens)
            if output.prompt_logprobs is not None and self._prompt_logprobs is not None:
                self._prompt_logprobs += [
                    decoded_logprobs(position, self._token_text)
                    for position in output.prompt_logprobs
                ]
        if output.error is not None:
            self.fail(completion, output.error)
        else:
            completion.update(output)

    def fail(self, completion: Completion, error: Exception) -> None:
        """End the request because one of its completions cannot be served."""
        self._error = error
        completion.end("error")
        self.abort()

    def abort(self) -> None:
        """End the completions that still run, with the text they have."""
        for completion in self._completions:
            if completion.finish_reason is None:
                completion.end("abort")

    def output(self) -> RequestOutput | None:
        """What to tell the caller now, or None if it wants to hear nothing yet."""
        finished = self.finished
        if not finished and self._kind is RequestOutputKind.FINAL_ONLY:
            return None
        news = [completion for completion in self._completions if completion.has_news]
        if not finished and (not news or self._awaits_scores):
            return None
        told = news if self._kind is RequestOutputKind.DELTA else self._completions
        request = self.request
        prompt_logprobs = self._prompt_logprobs
        if self._kind is RequestOutputKind.DELTA:
            self._prompt_logprobs = None
        return RequestOutput(
            request.request_id,
            request.prompt,
            request.prompt_token_ids,
            [completion.output(request.lora_request) for completion in told],
            finished,
            request.lora_request,
            self._adapter_digest,
            prompt_logprobs,
            self._num_cached_tokens,
            self._error,
            self._first_scheduled_time,
        )
