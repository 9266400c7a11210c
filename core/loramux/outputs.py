"""What comes back for a request. Names are vLLM's."""

from __future__ import annotations

from dataclasses import dataclass, field

from loramux.lora.request import LoRARequest


@dataclass(frozen=True)
class Logprob:
    """Log probability of one token at one step, before any sampling parameter is applied.

    ``rank`` is 1 for the likeliest token of the vocabulary.
    """

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


TokenLogprobs = dict[int, Logprob]
"""Token id to its log probability, the chosen token first."""


@dataclass
class CompletionOutput:
    """One completion of a request.

    ``finish_reason`` is None while it runs, then ``stop`` (end-of-sequence, a stop string or a
    stop token), ``length`` (max_tokens or the model's length), ``abort`` or ``error``.
    ``stop_reason`` is the stop string or the stop token id that ended it, None for the model's
    own end-of-sequence token.
    """

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None = None
    logprobs: list[TokenLogprobs] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    lora_request: LoRARequest | None = None

    def finished(self) -> bool:
        return self.finish_reason is not None


@dataclass
class RequestOutput:
    """The state of a request after a step.

    ``outputs`` holds ``n`` completions ordered by index. ``lora_request`` is the adapter that
    served them, and ``adapter_digest`` the content identity of the weights that were used.
    ``num_cached_tokens`` counts prompt tokens whose keys and values came from the prefix cache.
    ``error`` is set when ``finish_reason`` is ``error``: the request could not be served, for
    this reason, and nothing else was affected.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool
    lora_request: LoRARequest | None = None
    adapter_digest: str | None = None
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    num_cached_tokens: int = 0
    error: Exception | None = field(default=None)
