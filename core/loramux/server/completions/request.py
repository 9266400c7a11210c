"""The body of ``POST /v1/completions``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from loramux.sampling_params import SamplingParams
from loramux.server.generation.sampling_fields import MAX_LOGPROBS, SamplingFields

DEFAULT_MAX_TOKENS = 16
"""OpenAI's default for completions."""


class CompletionRequest(SamplingFields):
    """OpenAI's fields and vLLM's extra ones."""

    prompt: Any
    echo: bool = False
    logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)
    max_tokens: int | None = Field(default=None, ge=0)
    add_special_tokens: bool = True

    @property
    def wants_prompt_only(self) -> bool:
        """``echo`` with ``max_tokens`` 0 is how clients score a text."""
        return self.echo and self.max_tokens == 0

    def params_for(
        self, prompt_length: int, max_model_len: int, defaults: Mapping[str, Any]
    ) -> SamplingParams:
        """Sampling parameters for a prompt of this length.

        Raises:
            InvalidRequestError: a value is out of range.
        """
        prompt_logprobs = self.prompt_logprobs
        if self.echo and self.logprobs is not None:
            prompt_logprobs = max(self.logprobs, prompt_logprobs or 0)
        return self.sampling_params(
            defaults,
            max_tokens=self._tokens_to_generate(max_model_len - prompt_length),
            logprobs=self.logprobs,
            prompt_logprobs=prompt_logprobs,
        )

    def _tokens_to_generate(self, room: int) -> int:
        if self.max_tokens is None:
            return min(DEFAULT_MAX_TOKENS, room)
        return 1 if self.wants_prompt_only else self.max_tokens
