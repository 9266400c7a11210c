"""The body of ``POST /v1/chat/completions``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from loramux.errors import InvalidRequestError
from loramux.sampling_params import SamplingParams
from loramux.server.chat.template import ChatFields
from loramux.server.chat.tools.forms import form_of_calls
from loramux.server.generation.sampling_fields import MAX_LOGPROBS, SamplingFields
from loramux.server.http.errors import bad_request
from loramux.server.http.json_types import WHOLE


class ChatRequest(SamplingFields, ChatFields):
    """OpenAI's fields and vLLM's extra ones."""

    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS), WHOLE] | None = None
    max_tokens: Annotated[int, Field(ge=1), WHOLE] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1), WHOLE] | None = None

    @model_validator(mode="after")
    def _check_logprobs(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequestError(
                "top_logprobs can only be given when logprobs is true.", "top_logprobs"
            )
        return self

    @property
    def tokens_to_generate(self) -> int | None:
        """None means up to the model's length."""
        given = self.max_completion_tokens
        return self.max_tokens if given is None else given

    @property
    def length_field(self) -> str:
        """Which field says how many."""
        return "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"

    @property
    def names_of_fields(self) -> dict[str, str]:
        """The engine's names of what it may refuse, to those of this request."""
        form = "tools" if self.must_call else self.form_field
        return {"prompt": "messages", "structured_outputs": form, "max_tokens": self.length_field}

    def params(self, defaults: Mapping[str, Any], show_special_tokens: bool) -> SamplingParams:
        """The engine's form of this request.

        Args:
            defaults: take the place of what is not given.
            show_special_tokens: whether calls can be told by special tokens.

        Raises:
            ApiError: a form is asked for, and tools that could not be called in it.
            InvalidRequestError: a value is out of range.
        """
        if self.may_call and self.form() is not None:
            raise bad_request(
                "tools cannot be called by a text that has a form of its own; set tool_choice to "
                "none, or leave the form out.",
                "tool_choice",
            )
        if show_special_tokens and self.may_call and not self.must_call:
            defaults = {**defaults, "skip_special_tokens": False}
        return self.sampling_params(
            defaults,
            max_tokens=self.tokens_to_generate,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            prompt_logprobs=self.prompt_logprobs,
            form=form_of_calls(self),
        )
