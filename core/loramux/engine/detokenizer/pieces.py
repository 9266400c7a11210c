"""Texts of single tokens, and the detokenizer that strings them together."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer

from loramux.engine.detokenizer.rules import PieceRules

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_EACH_BYTE = "loramux.replace_each_byte"


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return REPLACEMENT * (error.end - error.start), error.end


codecs.register_error(_EACH_BYTE, _replace_each_byte)


class Pieces(dict[int, str | bytes]):
    """What each token id adds to a text: a string where it is whole characters, else bytes.

    Filled as ids come up; ids without a token add nothing, as in ``Tokenizer.decode``.
    """

    def __init__(self, tokenizer: Tokenizer, rules: PieceRules, skipped: Iterable[int]) -> None:
        super().__init__(dict.fromkeys(skipped, ""))
        self._tokenizer = tokenizer
        self._rules = rules
        self.strips_leading_space = rules.strips_leading_space
        # Byte fallback gives one mark per byte, byte-level decoding one per broken character.
        self.errors = _EACH_BYTE if rules.byte_fallback else "replace"

    def __missing__(self, token_id: int) -> str | bytes:
        token = self._tokenizer.id_to_token(token_id)
        raw = b"" if token is None else self._rules.piece(token)
        try:
            piece: str | bytes = raw.decode()
        except UnicodeDecodeError:
            piece = raw
        self[token_id] = piece
        return piece

    def text(self, token_id: int) -> str:
        """The token's text on its own."""
        piece = self[token_id]
        return piece if isinstance(piece, str) else piece.decode(errors=self.errors)


class PieceDetokenizer:
    """Detokenizer for tokenizers whose tokens each have a text of their own.

    Bytes that do not yet make a character are kept back. The text is what the tokenizer decodes
    from prompt and output together, less the prompt. One thing differs: where broken bytes stand
    beside whole characters, byte fallback in ``tokenizers`` gives up the characters too; here they
    stay, as in SentencePiece itself, because they may have been handed out already.
    """

    __slots__ = ("_at_start", "_num_prompt_bytes", "_pending", "_pieces")

    def __init__(self, pieces: Pieces, prompt_token_ids: Sequence[int]) -> None:
        self._pieces = pieces
        self._at_start = pieces.strips_leading_space and not any(
            pieces[token_id] for token_id in prompt_token_ids
        )
        self._pending = _unfinished(pieces, prompt_token_ids)
        self._num_prompt_bytes = len(self._pending)

    def push(self, token_id: int) -> str:
        """Text that is certain now that ``token_id`` has come; may be empty."""
        piece = self._pieces[token_id]
        if type(piece) is str and not self._pending and not self._at_start:
            return piece
        return self._read(piece if isinstance(piece, bytes) else piece.encode(), final=False)

    def finish(self) -> str:
        """What was kept back, broken characters marked."""
        return self._read(b"", final=True) if self._pending else ""

    def _read(self, raw: bytes, final: bool) -> str:
        data = self._pending + raw
        text, used = codecs.utf_8_decode(data, self._pieces.errors, final)
        self._pending = data[used:]
        if used and self._num_prompt_bytes:
            text = self._without_prompt_marks(text)
        if text and self._at_start:
            self._at_start = False
            text = text.removeprefix(" ")
        return text

    def _without_prompt_marks(self, text: str) -> str:
        """The prompt's text already shows its broken bytes, unless the output completed them."""
        marks = self._num_prompt_bytes if self._pieces.errors == _EACH_BYTE else 1
        self._num_prompt_bytes = 0
        return text.removeprefix(REPLACEMENT * marks)


def _unfinished(pieces: Pieces, token_ids: Sequence[int]) -> bytes:
    """Bytes at the end of ``token_ids`` that are the beginning of a character."""
    tail = b""
    for token_id in reversed(token_ids):
        piece = pieces[token_id]
        if isinstance(piece, bytes):
            tail = piece + tail
        elif piece:
            break
        if len(tail) >= 4:
            break
    return tail[codecs.utf_8_decode(tail, "replace", False)[1] :]
