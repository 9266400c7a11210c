"""The body of ``POST /v1/completions``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from loramux.sampling_params import SamplingParams
from loramux.server.generation.prompts import PROMPT_SCHEMA, parse_prompts
from loramux.server.generation.sampling_fields import MAX_LOGPROBS, SamplingFields
from loramux.server.generation.unsupported import UNSUPPORTED_IN_COMPLETIONS, check_fields
from loramux.server.http.body import validate
from loramux.server.http.errors import bad_request
from loramux.server.http.json_types import WHOLE, Integer

DEFAULT_MAX_TOKENS = 16
"""OpenAI's default for completions."""

MAX_SCORES = 4_000_000
"""Log probabilities of prompt tokens in one answer, whose choices each have those of their prompt;
each takes 200 bytes until it is sent."""


class CompletionRequest(SamplingFields):
    """OpenAI's fields and vLLM's extra ones."""

    prompt: Any = Field(json_schema_extra=PROMPT_SCHEMA)
    echo: bool = False
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS), WHOLE] | None = None
    max_tokens: Annotated[int, Field(ge=0), WHOLE] | None = None
    add_special_tokens: bool = True
    best_of: Integer | None = None

    @property
    def wants_prompt_only(self) -> bool:
        """``echo`` with ``max_tokens`` 0 is how clients score a text."""
        return self.echo and self.max_tokens == 0

    def params_for(
        self, prompt_lengths: Sequence[int], max_model_len: int, defaults: Mapping[str, Any]
    ) -> list[SamplingParams]:
        """Sampling parameters for each prompt; one object for all that generate as many tokens,
        since checking it takes milliseconds where it holds a schema, and prompts may be a thousand.

        Raises:
            ApiError: more log probabilities are asked for than a server can hold.
            InvalidRequestError: a value is out of range.
        """
        self._check_scores(sum(prompt_lengths) * self.n)
        tokens = [self._tokens_to_generate(max_model_len - length) for length in prompt_lengths]
        num_prompts = len(prompt_lengths)
        params = {each: self._params(each, num_prompts, defaults) for each in set(tokens)}
        return [params[max_tokens] for max_tokens in tokens]

    def _params(
        self, max_tokens: int, num_prompts: int, defaults: Mapping[str, Any]
    ) -> SamplingParams:
        return self.sampling_params(
            defaults,
            max_tokens=max_tokens,
            logprobs=self.logprobs,
            prompt_logprobs=self._scores,
            num_prompts=num_prompts,
        )

    @property
    def _scores(self) -> int | None:
        """Most likely tokens wanted at each token of a prompt; ``echo`` wants them there, too."""
        if self.echo and self.logprobs is not None:
            return max(self.logprobs, self.prompt_logprobs or 0)
        return self.prompt_logprobs

    def _check_scores(self, num_tokens: int) -> None:
        if self._scores is not None and num_tokens * (self._scores + 1) > MAX_SCORES:
            raise bad_request(
                f"The answer has {num_tokens} tokens of prompts (n = {self.n}), and "
                f"{self._scores + 1} log probabilities of each are more than the {MAX_SCORES} "
                "that one request may ask for; send several requests, or ask for fewer.",
                "prompt_logprobs" if self.prompt_logprobs is not None else "logprobs",
            )

    def _tokens_to_generate(self, room: int) -> int:
        if self.max_tokens is None:
            return min(DEFAULT_MAX_TOKENS, room)
        return 1 if self.wants_prompt_only else self.max_tokens


@dataclass(frozen=True)
class ParsedCompletion:
    """A checked body, and its prompts one by one."""

    body: CompletionRequest
    texts: list[str | list[int]]


def parse_completion(payload: dict[str, Any]) -> ParsedCompletion:
    """Check every field of a body.

    Raises:
        ApiError: 400 naming the first field that is wrong.
        InvalidRequestError: it holds no prompt, or too many.
    """
    check_fields(payload, CompletionRequest.model_fields, UNSUPPORTED_IN_COMPLETIONS)
    body = validate(CompletionRequest, payload)
    if body.best_of not in (None, body.n):
        raise bad_request(
            f"best_of must be n, which is {body.n}, or left out: no more completions are made "
            f"than are answered, got {body.best_of}.",
            "best_of",
        )
    return ParsedCompletion(body, parse_prompts(body.prompt))
