"""From what a client sends as a prompt to token ids that fit the model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from loramux.engine.detokenizer import DetokenizerFactory
from loramux.engine.front.text_limit import TextLimit
from loramux.errors import InvalidRequestError

Result = TypeVar("Result")

TokenBytes = Callable[[int], bytes]

MAX_PROMPTS = 2048
"""Most prompts one request may carry, which is how many inputs OpenAI's API embeds at once; each is
a sequence of its own in the batch."""


_TOKENS = {"type": "array", "items": {"type": "integer"}, "minItems": 1}

PROMPT_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"anyOf": [{"type": "string"}, _TOKENS]}, "minItems": 1},
        _TOKENS,
    ]
}
"""What :func:`parse_prompts` takes, for the documentation."""


@dataclass(frozen=True)
class Prompt:
    """A prompt as the engine takes it; ``text`` and ``first_token`` are for ``echo``."""

    token_ids: list[int]
    text: str = ""
    first_token: str = ""
    """Text of the first token, which has no log probability to bring its text along."""


class TokenizerThreads:
    """A tokenizer off the event loop: a long prompt holds up nobody's stream.

    Several threads, so that it does not hold up other prompts either; fast tokenizers release
    Python's lock while they work.
    """

    def __init__(self, tokenizer: Any | None, max_model_len: int, threads: int = 4) -> None:
        self._tokenizer = tokenizer
        self.limit = None if tokenizer is None else TextLimit.of(tokenizer, max_model_len)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="loramux-tokenizer")

    async def run(self, work: Callable[[Any], Result]) -> Result:
        """Call ``work(tokenizer)`` on a thread.

        Raises:
            InvalidRequestError: the server was started without a tokenizer.
        """
        if self._tokenizer is None:
            raise InvalidRequestError(
                "This server was started with skip_tokenizer_init and knows no text; "
                "send the prompt as a list of token ids.",
                "prompt",
            )
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, self._tokenizer)

    def token_bytes(self, token_id: int) -> bytes:
        """A single token's, for those who have its text and so a tokenizer."""
        return self._detokenizers.token_bytes(token_id)

    @cached_property
    def _detokenizers(self) -> DetokenizerFactory:
        return DetokenizerFactory(self._tokenizer)

    async def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of ``text``.

        Raises:
            InvalidRequestError: it is so long that it cannot fit, or there is no tokenizer.
        """
        return await self.run(
            lambda tokenizer: encode(tokenizer, text, add_special_tokens, self.limit)
        )

    async def decode(self, token_ids: Sequence[int], *, param: str = "prompt") -> str:
        """Text of token ids, special tokens included; ``param`` is where a client gave them.

        Raises:
            InvalidRequestError: one of them cannot be a token id.
        """
        try:
            return await self.run(lambda tokenizer: str(tokenizer.decode(token_ids)))
        except OverflowError as error:
            raise InvalidRequestError(
                "Token ids must be integers from 0 to the size of the vocabulary.", param
            ) from error

    def close(self) -> None:
        """End the threads; what waits for one is cancelled."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def encode(
    tokenizer: Any, text: str, add_special_tokens: bool, limit: TextLimit | None
) -> list[int]:
    """Token ids of ``text``.

    Raises:
        InvalidRequestError: it is so long that it cannot fit the model.
    """
    if limit is not None:
        limit.check(text)
    token_ids: list[int] = tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"]
    return token_ids


def parse_prompts(prompt: Any, field: str = "prompt") -> list[str | list[int]]:
    """The four forms of OpenAI's ``prompt`` as a list of texts and token id lists.

    Args:
        field: name of the request's field.

    Raises:
        InvalidRequestError: it is none of them, or there are too many.
    """
    if isinstance(prompt, str) or _is_token_ids(prompt):
        return [prompt]
    items = prompt if isinstance(prompt, list) else []
    if not items or not all(isinstance(item, str) or _is_token_ids(item) for item in items):
        raise InvalidRequestError(
            f"{field} must be a string, a list of strings, a list of token ids or a list of lists "
            "of token ids, and must not be empty.",
            field,
        )
    if len(items) > MAX_PROMPTS:
        raise InvalidRequestError(
            f"{field} holds {len(items)} prompts, and one request may carry {MAX_PROMPTS}; "
            "send several requests.",
            field,
        )
    return items


def check_length(
    prompt_length: int, max_tokens: int | None, max_model_len: int, field: str = "max_tokens"
) -> None:
    """See that prompt and answer fit the model together.

    Args:
        field: the request's name for ``max_tokens``.

    Raises:
        InvalidRequestError: they do not; the sentence names every number.
    """
    if prompt_length + (max_tokens or 1) <= max_model_len:
        return
    limit = f"This model's maximum context length is {max_model_len} tokens"
    if prompt_length >= max_model_len:
        raise InvalidRequestError(
            f"{limit}, and the prompt alone has {prompt_length}; shorten the prompt.", "prompt"
        )
    raise InvalidRequestError(
        f"{limit}, and this request asks for {prompt_length + (max_tokens or 1)} "
        f"({prompt_length} in the prompt and {max_tokens} to generate); "
        f"shorten the prompt or lower {field}.",
        field,
    )


def _is_token_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)
