"""Log probabilities in the two shapes of the OpenAI API, and in vLLM's for prompts."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from loramux.engine.detokenizer.pieces import REPLACEMENT
from loramux.outputs import Logprob, TokenLogprobs
from loramux.server.generation.prompts import TokenBytes

LOWEST = -9999.0
"""What stands for minus infinity, which JSON has no number for; vLLM's choice."""


class CompletionLogprobs:
    """Builds the ``logprobs`` of ``/v1/completions``; offsets go on from one delta to the next.

    Args:
        first_token: text of a prompt's first token, which comes without a step of its own.
        bytes_of: single tokens.
    """

    def __init__(self, first_token: str, bytes_of: TokenBytes) -> None:
        self._first_token = first_token
        self._bytes_of = bytes_of
        self._offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

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
            "text_offset": self._offsets(token_ids, tokens),
        }

    def _offsets(self, token_ids: Sequence[int], tokens: Sequence[str]) -> list[int]:
        """Where each token begins, or the character does that it is part of."""
        offsets = []
        for token_id, token in zip(token_ids, tokens, strict=True):
            offsets.append(self._offset)
            own = _own_bytes(token_id, token, self._bytes_of)
            self._offset += len(self._decoder.decode(own))
        return offsets


def chat_logprobs(
    token_ids: Sequence[int], steps: Sequence[TokenLogprobs], top: int, bytes_of: TokenBytes
) -> dict[str, Any]:
    """The ``logprobs`` of ``/v1/chat/completions``."""
    content = [
        {
            **_entry(token_id, step[token_id], bytes_of),
            "top_logprobs": _top(step, top, bytes_of),
        }
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


def _top(step: TokenLogprobs, count: int, bytes_of: TokenBytes) -> list[dict[str, Any]]:
    likeliest = sorted(step.items(), key=lambda item: item[1].logprob, reverse=True)
    return [_entry(token_id, logprob, bytes_of) for token_id, logprob in likeliest[:count]]


def _entry(token_id: int, logprob: Logprob, bytes_of: TokenBytes) -> dict[str, Any]:
    text = _token_text(token_id, logprob)
    own = _own_bytes(token_id, text, bytes_of)
    return {"token": text, "logprob": _clamped(logprob), "bytes": list(own)}


def _own_bytes(token_id: int, text: str, bytes_of: TokenBytes) -> bytes:
    """Of one token; its text does not tell them where they are part of a character."""
    return bytes_of(token_id) if REPLACEMENT in text else text.encode()


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
