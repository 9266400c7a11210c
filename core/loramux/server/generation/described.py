"""What the answers of completions and chats have in common, as the documentation shows it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

FinishReason = Literal["stop", "length", "abort", "tool_calls"]


class CachedTokens(BaseModel):
    """Tokens of the prompt that were computed before."""

    cached_tokens: int


class TokenUsage(BaseModel):
    """Tokens of all prompts and completions of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class TokenOfPrompt(BaseModel):
    """One of the tokens that may follow; ``rank`` is 1 for the likeliest."""

    logprob: float
    rank: int | None
    decoded_token: str | None


PromptLogprobs = list[dict[str, TokenOfPrompt] | None]
"""For each token of the prompt, log probabilities by token id; none for the first."""
