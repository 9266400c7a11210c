"""A detokenizer for any tokenizer: decode a few tokens again and see what has been added."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from loramux.engine.detokenizer.pieces import REPLACEMENT

CONTEXT_TOKENS = 6
"""Tokens of the prompt that condition the first tokens of the output."""

MAX_PENDING_TOKENS = 8
"""A character has at most four bytes, so a text that stays broken for longer will not mend."""

Decode = Callable[[list[int]], str]


class WindowDetokenizer:
    """Detokenizer for decoders under which a token's text depends on what stands before it.

    The tokens handed out last are the context: new text is what decoding context and pending
    tokens together gives beyond the context's own text. Text that ends in the mark of a broken
    character is kept back, until it mends or cannot any more.
    """

    __slots__ = (
        "_context",
        "_context_text",
        "_decode",
        "_pending",
        "_settled_text",
        "_skipped",
    )

    def __init__(
        self, decode: Decode, prompt_token_ids: Sequence[int], skipped: frozenset[int]
    ) -> None:
        """``decode`` turns ids into text; ``skipped`` ids are left out of it."""
        self._decode = decode
        self._skipped = skipped
        self._pending: list[int] = []
        self._set_context(self._end_of(prompt_token_ids))
        # The output may complete a character that the prompt has begun.
        self._settled_text = self._context_text.rstrip(REPLACEMENT)

    def push(self, token_id: int) -> str:
        """Text that is certain now that ``token_id`` has come; may be empty."""
        if token_id in self._skipped:
            return ""
        self._pending.append(token_id)
        text = self._text_of(self._pending)
        if text and not text.endswith(REPLACEMENT):
            self._set_context(self._pending)
            self._pending = []
            return text
        return self._release(text) if len(self._pending) > MAX_PENDING_TOKENS else ""

    def finish(self) -> str:
        """What was kept back, broken characters marked."""
        pending, self._pending = self._pending, []
        return self._text_of(pending) if pending else ""

    def _text_of(self, token_ids: list[int]) -> str:
        whole = self._decode(self._context + token_ids)
        if whole.startswith(self._context_text):
            return whole[len(self._context_text) :]
        if self._settled_text != self._context_text and whole.startswith(self._settled_text):
            return whole[len(self._settled_text) :]
        # The new tokens change how the old ones read; what was handed out stays as it is.
        return self._decode(token_ids)

    def _release(self, text: str) -> str:
        """Hand out the front of a ``text`` that stays broken; its end may still mend."""
        if not text:
            self._pending = self._pending[1:]
            return ""
        for kept in range(3, 7):
            head, tail = self._pending[:-kept], self._pending[-kept:]
            head_text = self._text_of(head)
            if head_text + self._decode(tail) == text:
                break
        else:
            head, tail, head_text = self._pending, [], text
        self._set_context(head)
        self._pending = tail
        return head_text

    def _set_context(self, token_ids: list[int]) -> None:
        self._context = token_ids
        self._context_text = self._decode(token_ids) if token_ids else ""
        self._settled_text = self._context_text

    def _end_of(self, prompt_token_ids: Sequence[int]) -> list[int]:
        """The last tokens of the prompt: a few, or as many as it takes to have any text."""
        tokens = [token_id for token_id in prompt_token_ids if token_id not in self._skipped]
        size = CONTEXT_TOKENS
        while size < len(tokens) and not self._decode(tokens[-size:]):
            size *= 2
        return tokens[-size:]
