"""How one request wants its tokens chosen. Field names and meanings are vLLM's."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from loramux import field_checks as check
from loramux.errors import InvalidRequestError
from loramux.structured_outputs import StructuredOutputsParams

__all__ = ["RequestOutputKind", "SamplingParams", "StructuredOutputsParams"]

logger = logging.getLogger(__name__)

MAX_N = 128
"""Most completions one request may ask for; each is a sequence of its own in the batch."""

MAX_TEMPERATURE = 2.0
MIN_POSITIVE_TEMPERATURE = 0.01
"""Positive temperatures below this are raised to it, as in vLLM: dividing by less overflows."""


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
        n: number of completions; 1 where ``temperature`` is 0.
        presence_penalty: subtracted from the logit of every token generated so far, -2 to 2.
        frequency_penalty: the same, times how often it was generated, -2 to 2.
        repetition_penalty: logits of tokens in prompt or output are divided (if positive) or
            multiplied by it, 0.01 to 100; 1 changes nothing (Keskar et al. 2019).
        temperature: 0 is greedy, up to 2; between 0 and 0.01 it is raised to 0.01.
        top_p: smallest set of tokens whose probability reaches it, in (0, 1].
        top_k: the k most likely tokens; 0 or -1 keeps all.
        min_p: tokens at least this likely relative to the likeliest, in [0, 1].
        seed: makes this request's draws repeatable whatever else is in the batch.
        stop: strings that end the generation; not part of the text unless
            ``include_stop_str_in_output``. One string or several; kept as a list.
        stop_token_ids: token ids that end the generation; kept as a list without repeats.
        ignore_eos: go on past the end-of-sequence token.
        max_tokens: tokens to generate at most; None means up to the model's length.
        min_tokens: tokens to generate before end-of-sequence or a stop may end it.
        logprobs: also give this many most likely tokens at each step (the chosen one always
            included); -1 gives the whole vocabulary.
        prompt_logprobs: the same for each token of the prompt.
        logit_bias: added to the logits of these token ids, -100 to 100.
        skip_special_tokens: leave special tokens out of the text.
        include_stop_str_in_output: leave the text of the stop string or stop token in.
        output_kind: what each output of a stream carries.
        structured_outputs: a form that the text must have; a mapping of its fields will do.

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
    structured_outputs: StructuredOutputsParams | Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        self._check_distribution()
        self._check_lengths()
        self._check_logprobs()
        self._check_switches()
        self.stop = check.stop_strings(self.stop)
        self.stop_token_ids = check.token_ids("stop_token_ids", self.stop_token_ids)
        self.logit_bias = check.logit_bias(self.logit_bias)
        self.structured_outputs = StructuredOutputsParams.of(self.structured_outputs)
        if self.temperature == 0.0:
            self._become_greedy()
        elif self.temperature < MIN_POSITIVE_TEMPERATURE:
            logger.warning(
                "temperature %s is raised to %s, the least that is numerically safe.",
                self.temperature,
                MIN_POSITIVE_TEMPERATURE,
            )
            self.temperature = MIN_POSITIVE_TEMPERATURE

    @property
    def stop_strings(self) -> list[str]:
        """``stop`` as the list it is kept as."""
        return self.stop if isinstance(self.stop, list) else []

    @property
    def form(self) -> StructuredOutputsParams | None:
        """``structured_outputs`` as the object it is kept as."""
        return StructuredOutputsParams.of(self.structured_outputs)

    @property
    def is_greedy(self) -> bool:
        """Whether every token is the likeliest one, without a draw."""
        return self.temperature == 0.0

    @property
    def has_penalties(self) -> bool:
        """Whether a token's chance depends on the tokens before it."""
        return (
            self.repetition_penalty != 1.0
            or self.frequency_penalty != 0.0
            or self.presence_penalty != 0.0
        )

    def _check_distribution(self) -> None:
        self.presence_penalty = check.real("presence_penalty", self.presence_penalty, -2.0, 2.0)
        self.frequency_penalty = check.real("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        self.repetition_penalty = check.real(
            "repetition_penalty", self.repetition_penalty, 0.01, 100.0
        )
        self.temperature = check.real("temperature", self.temperature, 0.0, MAX_TEMPERATURE)
        self.top_p = check.positive("top_p", self.top_p, 1.0)
        self.min_p = check.real("min_p", self.min_p, 0.0, 1.0)
        check.integer("top_k", self.top_k, -1)
        if self.seed is not None:
            check.integer("seed", self.seed, -(2**63), 2**63 - 1)

    def _check_lengths(self) -> None:
        check.integer("n", self.n, 1, MAX_N)
        check.integer("min_tokens", self.min_tokens, 0)
        if self.max_tokens is None:
            return
        check.integer("max_tokens", self.max_tokens, 1)
        if self.min_tokens > self.max_tokens:
            raise InvalidRequestError(
                f"min_tokens must be at most max_tokens, which is {self.max_tokens}, "
                f"got {self.min_tokens}.",
                param="min_tokens",
            )

    def _check_logprobs(self) -> None:
        if self.logprobs is not None:
            check.integer("logprobs", self.logprobs, -1)
        if self.prompt_logprobs is not None:
            check.integer("prompt_logprobs", self.prompt_logprobs, -1)

    def _check_switches(self) -> None:
        check.boolean("ignore_eos", self.ignore_eos)
        check.boolean("skip_special_tokens", self.skip_special_tokens)
        check.boolean("include_stop_str_in_output", self.include_stop_str_in_output)
        try:
            self.output_kind = RequestOutputKind(self.output_kind)
        except ValueError as error:
            kinds = ", ".join(kind.value for kind in RequestOutputKind)
            raise InvalidRequestError(
                f"output_kind must be one of {kinds}, got {self.output_kind!r}.",
                param="output_kind",
            ) from error

    def _become_greedy(self) -> None:
        """Drop what cannot change the likeliest token; refuse what would only repeat it."""
        if self.n > 1:
            raise InvalidRequestError(
                f"n must be 1 when using greedy sampling, got {self.n}; "
                "set a temperature above 0 to get different completions.",
                param="n",
            )
        self.top_p, self.top_k, self.min_p = 1.0, 0, 0.0
