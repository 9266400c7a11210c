"""What comes back for a request. Names are vLLM's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from loramux.lora.request import LoRARequest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(slots=True)
class Logprob:
    """Log probability of one token at one step, before any sampling parameter is applied.

    ``rank`` is 1 for the likeliest token of the vocabulary. ``decoded_token`` is the token's own
    text, None where the engine has no tokenizer.
    """

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


TokenLogprobs = dict[int, Logprob]
"""Token id to its log probability, the chosen token first, the others from likeliest on."""


@dataclass(slots=True)
class CompletionOutput:
    """One completion of a request.

    ``text``, ``token_ids`` and ``logprobs`` are those generated so far, or in ``DELTA`` outputs
    those new since the last output. ``token_ids`` hold the token that ended the completion and
    the tokens of a stop string; ``text`` holds neither, unless ``include_stop_str_in_output``.
    ``cumulative_logprob`` is the sum over all chosen tokens, where ``logprobs`` were asked for.
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
        """Whether nothing more will come for this completion."""
        return self.finish_reason is not None


@dataclass(slots=True)
class RequestOutput:
    """The state of a request after a step.

    ``outputs`` holds the ``n`` completions ordered by index; in ``DELTA`` outputs only those with
    something new. ``finished`` says that no output follows for this request.
    ``lora_request`` is the adapter that served them, and ``adapter_digest`` the content identity
    of the weights that were used. ``prompt_logprobs`` has None for the first token of the prompt,
    which nothing precedes; in ``DELTA`` mode only the first output carries them.
    ``num_cached_tokens`` counts prompt tokens whose keys and values came from the prefix cache.
    ``first_scheduled_time`` is when it first ran, by :func:`time.monotonic`, 0 if it never did.
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
    error: Exception | None = None
    first_scheduled_time: float = 0.0


@dataclass(slots=True)
class PooledOutput(RequestOutput):
    """A request that has ended with an embedding, and one completion without text.

    So it travels the way of all requests. ``embedding`` is ``[dimensions]`` float32, None where
    the request failed or was aborted.
    """

    embedding: NDArray[np.float32] | None = None


@dataclass(slots=True)
class EmbeddingOutput:
    """The embedding of one prompt."""

    embedding: list[float]

    @property
    def hidden_size(self) -> int:
        """How many numbers it has."""
        return len(self.embedding)


@dataclass(slots=True)
class EmbeddingRequestOutput:
    """A prompt and its embedding; the fields are those of ``RequestOutput``."""

    request_id: str
    outputs: EmbeddingOutput
    prompt_token_ids: list[int]
    finished: bool = True
    num_cached_tokens: int = 0
    lora_request: LoRARequest | None = None
    adapter_digest: str | None = None
