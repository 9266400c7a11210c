"""A bound on prompt text, checked before a tokenizer spends time and memory on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from loramux.errors import InvalidRequestError

SPARE = 4
"""How many times longer than the longest conceivable prompt a text may be before it is refused
unread; some tokenizers drop white space, so that more text fits than its tokens can spell."""


@dataclass(frozen=True)
class TextLimit:
    """Most characters a prompt can have that may still fit the model."""

    max_chars: int
    max_model_len: int

    @classmethod
    def of(cls, tokenizer: Any, max_model_len: int) -> TextLimit:
        longest_token = max(map(len, tokenizer.get_vocab()), default=1)
        return cls(SPARE * longest_token * max_model_len, max_model_len)

    def check(self, text: str) -> None:
        """Refuse a text that is hopelessly long.

        Raises:
            InvalidRequestError: naming both lengths.
        """
        if len(text) > self.max_chars:
            raise InvalidRequestError(
                f"This model's maximum context length is {self.max_model_len} tokens, and the "
                f"prompt has {len(text)} characters, far more than they hold; shorten the prompt.",
                "prompt",
            )
