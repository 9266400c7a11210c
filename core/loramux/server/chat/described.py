"""The answers of ``/v1/chat/completions``, as the documentation shows them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel
from pydantic.json_schema import SkipJsonSchema

from loramux.server.generation.described import FinishReason, PromptLogprobs, TokenUsage

Absent = SkipJsonSchema[None]
"""The field is left out where there is nothing to say; it is never null."""


class TokenAlternative(BaseModel):
    """A token that might have come, with the bytes of its text."""

    token: str
    logprob: float
    bytes: list[int]


class ChatToken(TokenAlternative):
    """A token of the answer."""

    top_logprobs: list[TokenAlternative]


class ChatLogprobs(BaseModel):
    """Log probabilities of the answer's tokens."""

    content: list[ChatToken]
    refusal: None


class CalledFunction(BaseModel):
    """``arguments`` is JSON, written by the model."""

    name: str
    arguments: str


class ToolCall(BaseModel):
    """A call that the model makes."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class ChatMessage(BaseModel):
    """The answer; a message of calls alone has no content."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[ToolCall] | Absent = None


class ChatChoice(BaseModel):
    """One of ``n`` answers; ``stop_reason`` is the stop string or token that ended it."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    stop_reason: int | str | None


class ChatCompletion(BaseModel):
    """The answer to a chat."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: TokenUsage
    prompt_logprobs: PromptLogprobs | Absent | None = None


class FunctionDelta(BaseModel):
    """The name comes once, the arguments in pieces."""

    name: str | Absent = None
    arguments: str


class ToolCallDelta(BaseModel):
    """More of a call; ``id``, ``type`` and the name come with its first piece."""

    index: int
    id: str | Absent = None
    type: Literal["function"] | Absent = None
    function: FunctionDelta


class ChatDelta(BaseModel):
    """What is new; the role comes once."""

    role: Literal["assistant"] | Absent = None
    content: str | Absent = None
    tool_calls: list[ToolCallDelta] | Absent = None


class ChatChunkChoice(BaseModel):
    """More of one of ``n`` answers."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None
    stop_reason: int | str | None = None


class ChatCompletionChunk(BaseModel):
    """An event of a streamed answer; the last one has the usage, where it is asked for."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: TokenUsage | None = None
