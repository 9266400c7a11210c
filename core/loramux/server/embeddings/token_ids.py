"""From an input to token ids, cut where the request allows it."""

from __future__ import annotations

from functools import partial
from typing import Any

from loramux.engine.front.text_limit import TextLimit
from loramux.errors import InvalidRequestError
from loramux.server.embeddings.request import EmbeddingRequest
from loramux.server.generation.prompts import TokenizerThreads, encode


async def token_ids_of(
    threads: TokenizerThreads, text: str | list[int], body: EmbeddingRequest, max_model_len: int
) -> list[int]:
    """The tokens of one input.

    Of token ids that are too many the last ones stay; a text is cut at the side where its
    tokenizer cuts, and keeps the special tokens around it.

    Raises:
        InvalidRequestError: it is empty or too long, or there is no tokenizer.
    """
    most = body.most_tokens(max_model_len)
    if isinstance(text, str):
        token_ids = await threads.run(
            partial(
                _encode,
                text=text,
                with_special=body.add_special_tokens,
                most=most,
                limit=threads.limit,
            )
        )
    else:
        token_ids = text if most is None else text[max(len(text) - most, 0) :]
    _check_length(len(token_ids), max_model_len)
    return token_ids


def _encode(
    tokenizer: Any, *, text: str, with_special: bool, most: int | None, limit: TextLimit | None
) -> list[int]:
    from_left = tokenizer.truncation_side == "left"
    if most is not None and limit is not None:
        # What is cut here would be cut below, after a tokenizer had spent time and memory on it.
        text = text[-limit.max_chars :] if from_left else text[: limit.max_chars]
    token_ids = encode(tokenizer, text, with_special, limit)
    if most is None or len(token_ids) <= most:
        return token_ids
    # Not by the tokenizer itself, which then truncates for the other threads as well.
    plain = encode(tokenizer, text, False, limit)
    before, after = _around(token_ids, plain)
    room = max(most - len(before) - len(after), 0)
    cut = plain[len(plain) - room :] if from_left else plain[:room]
    return [*before, *cut, *after][:most]


def _around(token_ids: list[int], plain: list[int]) -> tuple[list[int], list[int]]:
    """The special tokens before and after a text's own; none where they lie between them."""
    spare = len(token_ids) - len(plain)
    for start in range(spare + 1):
        if token_ids[start : start + len(plain)] == plain:
            return token_ids[:start], token_ids[start + len(plain) :]
    return [], []


def _check_length(length: int, max_model_len: int) -> None:
    if length == 0:
        raise InvalidRequestError("An input is empty; give at least one token.", "input")
    if length > max_model_len:
        raise InvalidRequestError(
            f"This model's maximum context length is {max_model_len} tokens, and an input has "
            f"{length}; shorten it, or have it cut with truncate_prompt_tokens.",
            "input",
        )
