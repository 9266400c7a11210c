"""The right detokenizer for a tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


class TokenTexts(dict[int, str]):
    """Text of each token on its own, special ones included; broken characters are marked."""

    def __init__(self, text_of: Callable[[int], str]) -> None:
        super().__init__()
        self._text_of = text_of

    def __missing__(self, token_id: int) -> str:
        text = self[token_id] = self._text_of(token_id)
        return text


class DetokenizerFactory:
    """Makes detokenizers for one tokenizer. ``token_texts`` gives the text of single tokens.

    Args:
        tokenizer: of transformers (with a fast backend or without) or of ``tokenizers``; else
            anything with ``decode(ids)`` and ``all_special_ids``.
    """

    def __init__(self, tokenizer: Any) -> None:
        backend = _backend(tokenizer)
        self._decode, self._special_ids = _plain_decode(tokenizer, backend)
        rules = None if backend is None else piece_rules(backend)
        self._pieces = None if backend is None or rules is None else self._tables(backend, rules)
        pieces = self._pieces
        self.token_texts = TokenTexts(
            pieces[False].text if pieces else lambda token_id: self._decode([token_id])
        )

    def token_bytes(self, token_id: int) -> bytes:
        """A token's own bytes, which may be part of a character.

        Where tokens have none of their own, those of the token's text.
        """
        if self._pieces is None:
            return self.token_texts[token_id].encode()
        piece = self._pieces[False][token_id]
        return piece if isinstance(piece, bytes) else piece.encode()

    def detokenizer(
        self, prompt_token_ids: Sequence[int], skip_special_tokens: bool = True
    ) -> Detokenizer:
        """A detokenizer for one output of this prompt, whose end decides how the output begins."""
        if self._pieces is not None:
            return PieceDetokenizer(self._pieces[skip_special_tokens], prompt_token_ids)
        skipped = self._special_ids if skip_special_tokens else frozenset[int]()
        return WindowDetokenizer(self._decode, prompt_token_ids, skipped)

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
