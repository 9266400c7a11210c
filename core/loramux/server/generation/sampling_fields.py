"""The request fields that say how tokens are chosen, shared by all generating endpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from loramux.errors import InvalidRequestError
from loramux.sampling_params import MAX_N, MAX_TEMPERATURE, RequestOutputKind, SamplingParams
from loramux.server.generation.structured_fields import StructuredFields
from loramux.server.http.errors import bad_request
from loramux.server.http.json_types import WHOLE, Integer, IntegerKey, within
from loramux.structured_outputs import StructuredOutputsParams

MAX_LOGPROBS = 20
"""Most likely tokens a request may ask for at each step, as in the OpenAI API."""

MAX_TOKEN_IDS = 1024
"""Tokens that one request may name as stops, or give a bias; each is looked at at every step."""

MAX_HELD_LOGPROBS = 4_000_000
"""Of tokens in an answer that is not streamed; each takes 600 bytes until the last one is there."""

_PLAIN_FIELDS = (
    "n",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "stop_token_ids",
    "ignore_eos",
    "min_tokens",
    "logit_bias",
    "skip_special_tokens",
    "include_stop_str_in_output",
)
"""Fields that go to :class:`SamplingParams` as they are."""


STOP_SCHEMA: dict[str, Any] = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
}
"""What :class:`SamplingParams` takes, with one sentence for what it does not, for documentation."""


class StreamOptions(BaseModel):
    """What a stream carries besides text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class SamplingFields(StructuredFields):
    """Null, or not there, means: what the model's generation_config says, else OpenAI's default."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    model: str | None = None
    cache_salt: str | None = Field(default=None, min_length=1)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    max_tokens: Integer | None = None
    n: Annotated[int, within(minimum=1, maximum=MAX_N), WHOLE] = 1
    presence_penalty: Annotated[float, within(minimum=-2, maximum=2)] | None = None
    frequency_penalty: Annotated[float, within(minimum=-2, maximum=2)] | None = None
    repetition_penalty: Annotated[float, within(minimum=0.01, maximum=100)] | None = None
    temperature: Annotated[float, within(minimum=0, maximum=MAX_TEMPERATURE)] | None = None
    top_p: Annotated[float, within(exclusiveMinimum=0, maximum=1)] | None = None
    top_k: Annotated[int, within(minimum=-1), WHOLE] | None = None
    min_p: Annotated[float, within(minimum=0, maximum=1)] | None = None
    seed: Integer | None = None
    stop: Any = Field(default=None, json_schema_extra=STOP_SCHEMA)
    stop_token_ids: Annotated[list[Integer], Field(max_length=MAX_TOKEN_IDS)] | None = None
    ignore_eos: bool | None = None
    min_tokens: Annotated[int, within(minimum=0), WHOLE] | None = None
    logit_bias: Annotated[dict[IntegerKey, float], Field(max_length=MAX_TOKEN_IDS)] | None = None
    skip_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    prompt_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS), WHOLE] | None = None

    @model_validator(mode="after")
    def _check_stream_options(self) -> Self:
        if "stream_options" in self.model_fields_set and not self.stream:
            raise InvalidRequestError(
                "stream_options can only be given when stream is true.", "stream_options"
            )
        return self

    def sampling_params(
        self,
        defaults: Mapping[str, Any],
        *,
        max_tokens: int | None,
        logprobs: int | None,
        prompt_logprobs: int | None,
        form: StructuredOutputsParams | None = None,
        num_prompts: int = 1,
    ) -> SamplingParams:
        """The engine's form of these fields, ``defaults`` taking the place of what is not given.

        Args:
            form: of the text, instead of what these fields say of it.
            num_prompts: of the request.

        Raises:
            ApiError: more log probabilities are asked for than a server can hold.
            InvalidRequestError: a value is out of range.
        """
        given = {name: getattr(self, name) for name in _PLAIN_FIELDS}
        chosen = {name: value for name, value in given.items() if value is not None}
        kind = RequestOutputKind.DELTA if self.stream else RequestOutputKind.FINAL_ONLY
        return SamplingParams(
            **{**defaults, **chosen},
            max_tokens=self._that_can_be_held(max_tokens, num_prompts, logprobs),
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            output_kind=kind,
            structured_outputs=self.form() if form is None else form,
        )

    def _that_can_be_held(
        self, max_tokens: int | None, num_prompts: int, logprobs: int | None
    ) -> int | None:
        """``max_tokens``, or how many may be held where a request leaves it to the server."""
        if logprobs is None or self.stream:
            return max_tokens
        at_a_time = num_prompts * max(self.n, 1) * (logprobs + 1)
        most = MAX_HELD_LOGPROBS // at_a_time
        if max_tokens is not None and max_tokens > most:
            raise bad_request(
                f"{at_a_time} log probabilities for each of {max_tokens} tokens are more than the "
                f"{MAX_HELD_LOGPROBS} that one answer may hold; stream it, send several requests, "
                "or ask for fewer.",
                "logprobs",
            )
        return most if max_tokens is None else max_tokens
