"""Log probabilities in the two shapes of the OpenAI API, and in vLLM's for prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from loramux.outputs import Logprob, TokenLogprobs

LOWEST = -9999.0
"""What stands for minus infinity, which JSON has no number for; vLLM's choice."""


class CompletionLogprobs:
    """Builds the ``logprobs`` of ``/v1/completions``; offsets go on from one delta to the next.

    Args:
        first_token: text of a prompt's first token, which comes without a step of its own.
    """

    def __init__(self, first_token: str) -> None:
        self._first_token = first_token
        self._offset = 0

    def of(
        self, token_ids: Sequence[int], steps: Sequence[TokenLogprobs | None], top: int
    ) -> dict[str, Any]:
        """Of these tokens; a step is None for the first token of a prompt."""
        tokens = [
            self._first_token if step is None else _token_text(token_id, step[token_id])
            for token_id, step in zip(token_ids, steps, strict=True)
        ]
        chosen = [
            None if step is None else _clamped(step[token_id])
            for token_id, step in zip(token_ids, steps, strict=True)
        ]
        return {
            "tokens": tokens,
            "token_logprobs": chosen,
            "top_logprobs": [None if step is None else _by_text(step) for step in steps]
            if top
            else None,
            "text_offset": self._offsets(tokens),
        }

    def _offsets(self, tokens: Sequence[str]) -> list[int]:
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(token)
        return offsets


def chat_logprobs(
    token_ids: Sequence[int], steps: Sequence[TokenLogprobs], top: int
) -> dict[str, Any]:
    """The ``logprobs`` of ``/v1/chat/completions``."""
    content = [
        {**_entry(token_id, step[token_id]), "top_logprobs": _top(step, top)}
        for token_id, step in zip(token_ids, steps, strict=True)
    ]
    return {"content": content, "refusal": None}


def prompt_logprobs(
    steps: Sequence[TokenLogprobs | None] | None,
) -> list[dict[str, dict[str, Any]] | None] | None:
    """vLLM's ``prompt_logprobs``: for each token of the prompt, token id to its log probability."""
    if steps is None:
        return None
    return [None if step is None else _by_id(step) for step in steps]


def _top(step: TokenLogprobs, count: int) -> list[dict[str, Any]]:
    likeliest = sorted(step.items(), key=lambda item: item[1].logprob, reverse=True)
    return [_entry(token_id, logprob) for token_id, logprob in likeliest[:count]]


def _entry(token_id: int, logprob: Logprob) -> dict[str, Any]:
    text = _token_text(token_id, logprob)
    return {"token": text, "logprob": _clamped(logprob), "bytes": list(text.encode())}


def _plain(logprob: Logprob) -> dict[str, Any]:
    return {
        "logprob": _clamped(logprob),
        "rank": logprob.rank,
        "decoded_token": logprob.decoded_token,
    }


def _by_id(step: TokenLogprobs) -> dict[str, dict[str, Any]]:
    return {str(key): _plain(value) for key, value in step.items()}


def _by_text(step: TokenLogprobs | None) -> dict[str, float] | None:
    if step is None:
        return None
    return {_token_text(key, value): _clamped(value) for key, value in step.items()}


def _token_text(token_id: int, logprob: Logprob) -> str:
    return f"token_id:{token_id}" if logprob.decoded_token is None else logprob.decoded_token


def _clamped(logprob: Logprob) -> float:
    return max(logprob.logprob, LOWEST)
