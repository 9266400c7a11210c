"""The right detokenizer for a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from tokenizers import Tokenizer

from loramux.engine.detokenizer.pieces import PieceDetokenizer, Pieces
from loramux.engine.detokenizer.rules import PieceRules, piece_rules
from loramux.engine.detokenizer.window import Decode, WindowDetokenizer


class Detokenizer(Protocol):
    """Turns the tokens of one output into text as they come.

    What ``push`` and ``finish`` return, put together, is the output's text. Text never ends in
    half a character, and what was returned once never changes.
    """

    def push(self, token_id: int) -> str: ...
    def finish(self) -> str: ...


class DetokenizerFactory:
    """Makes detokenizers for one tokenizer.

    Args:
        tokenizer: of transformers (with a fast backend or without) or of ``tokenizers``; else
            anything with ``decode(ids)`` and ``all_special_ids``.
    """

    def __init__(self, tokenizer: Any) -> None:
        backend = _backend(tokenizer)
        self._decode, self._special_ids = _plain_decode(tokenizer, backend)
        rules = None if backend is None else piece_rules(backend)
        self._pieces = None if backend is None or rules is None else self._tables(backend, rules)
        self._token_texts: dict[int, str] = {}

    def detokenizer(
        self, prompt_token_ids: Sequence[int], skip_special_tokens: bool = True
    ) -> Detokenizer:
        """A detokenizer for one output of this prompt, whose end decides how the output begins."""
        if self._pieces is not None:
            return PieceDetokenizer(self._pieces[skip_special_tokens], prompt_token_ids)
        skipped = self._special_ids if skip_special_tokens else frozenset[int]()
        return WindowDetokenizer(self._decode, prompt_token_ids, skipped)

    def token_text(self, token_id: int) -> str:
        """Text of a single token, special ones included; broken characters are marked."""
        text = self._token_texts.get(token_id)
        if text is None:
            pieces = self._pieces
            text = pieces[False].text(token_id) if pieces else self._decode([token_id])
            self._token_texts[token_id] = text
        return text

    def _tables(self, backend: Tokenizer, rules: PieceRules) -> dict[bool, Pieces]:
        """Pieces without special tokens (True) and with them (False)."""
        return {
            True: Pieces(backend, rules, self._special_ids),
            False: Pieces(backend, rules, ()),
        }


def _backend(tokenizer: Any) -> Tokenizer | None:
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    return backend if isinstance(backend, Tokenizer) else None


def _plain_decode(tokenizer: Any, backend: Tokenizer | None) -> tuple[Decode, frozenset[int]]:
    """Decoding without any clean-up of spaces, which would change text already handed out."""
    if backend is not None:
        added = backend.get_added_tokens_decoder()
        special = frozenset(token_id for token_id, token in added.items() if token.special)
        return lambda ids: str(backend.decode(ids, skip_special_tokens=False)), special
    special = frozenset(tokenizer.all_special_ids)
    return lambda ids: str(tokenizer.decode(ids, clean_up_tokenization_spaces=False)), special
