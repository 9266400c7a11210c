"""How one request wants its tokens chosen. Field names and meanings are vLLM's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from loramux.errors import InvalidRequestError

MAX_N = 128
"""Most completions one request may ask for; each is a sequence of its own in the batch."""


class RequestOutputKind(StrEnum):
    """What each output of a streaming request carries."""

    CUMULATIVE = "cumulative"
    """Everything generated so far."""
    DELTA = "delta"
    """What is new since the last output."""
    FINAL_ONLY = "final_only"
    """Nothing until the request has finished."""


@dataclass(kw_only=True)
class SamplingParams:
    """Sampling parameters of one request.

    Args:
        n: number of completions.
        presence_penalty: subtracted from the logit of every token generated so far, -2 to 2.
        frequency_penalty: the same, times how often it was generated, -2 to 2.
        repetition_penalty: logits of tokens in prompt or output are divided (if positive) or
            multiplied by it; above 0, 1 changes nothing (Keskar et al. 2019, as in transformers).
        temperature: 0 is greedy.
        top_p: smallest set of tokens whose probability reaches it, in (0, 1].
        top_k: the k most likely tokens; 0 or -1 keeps all.
        min_p: tokens at least this likely relative to the likeliest, in [0, 1].
        seed: makes this request's draws repeatable whatever else is in the batch.
        stop: strings that end the generation; not part of the text unless
            ``include_stop_str_in_output``.
        stop_token_ids: token ids that end the generation.
        ignore_eos: go on past the end-of-sequence token.
        max_tokens: tokens to generate at most; None means up to the model's length.
        min_tokens: tokens to generate before end-of-sequence or a stop may end it.
        logprobs: also give this many most likely tokens at each step (the chosen one always
            included); -1 gives the whole vocabulary.
        prompt_logprobs: the same for each token of the prompt.
        logit_bias: added to the logits of these token ids, -100 to 100.
        skip_special_tokens: leave special tokens out of the text.
        output_kind: what each output of a stream carries.

    Raises:
        InvalidRequestError: a ``ValueError`` naming the field (``param``) that is out of range.
    """

    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logit_bias: Mapping[int, float] | None = None
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    output_kind: RequestOutputKind = field(default=RequestOutputKind.CUMULATIVE)
