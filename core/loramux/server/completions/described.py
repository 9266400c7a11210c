"""The answers of ``/v1/completions`` and ``/generate``, as the documentation shows them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from loramux.server.generation.described import FinishReason, PromptLogprobs, TokenUsage


class CompletionTokens(BaseModel):
    """Four lists with an entry for each token; a prompt's first token has no log probability."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class _Choice(BaseModel):
    index: int
    text: str
    logprobs: CompletionTokens | None
    stop_reason: int | str | None
    prompt_logprobs: PromptLogprobs | None = None


class CompletionChoice(_Choice):
    """One of ``n`` completions of a prompt; ``stop_reason`` is what ended it."""

    finish_reason: FinishReason


class CompletionChunkChoice(_Choice):
    """More of one of ``n`` completions of a prompt."""

    finish_reason: FinishReason | None


class Completion(BaseModel):
    """The answer to one prompt or several."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: TokenUsage


class CompletionChunk(BaseModel):
    """An event of a streamed answer; the last one has the usage, where it is asked for."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChunkChoice]
    usage: TokenUsage | None = None


class GeneratedTexts(BaseModel):
    """The texts of all completions of all prompts."""

    text: list[str]
    usage: TokenUsage
