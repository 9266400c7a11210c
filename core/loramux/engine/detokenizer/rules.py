"""Which decoders give every token a text of its own, and how that text is found.

A byte-level decoder (GPT-2 and most models since) and the SentencePiece chain with byte fallback
(Llama, Gemma) turn each token into bytes independent of its neighbours. Text is then those bytes
read as UTF-8: no window of tokens has to be decoded again and again, and nothing that was read
can change. Other decoders (WordPiece, Metaspace, whatever comes) are not described by rules.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer, models

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_CHAIN = re.compile(r"(Replace )*(ByteFallback )?(Fuse )?(Strip )?")


def _byte_level_alphabet() -> dict[str, int]:
    """The character that stands for each byte in a byte-level vocabulary, as in GPT-2."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(256 + place): byte for place, byte in enumerate(others)})
    return alphabet


_BYTE_OF = _byte_level_alphabet()


@dataclass(frozen=True, slots=True)
class PieceRules:
    """How a token becomes bytes.

    Args:
        byte_level: each character stands for a byte.
        byte_fallback: tokens like ``<0xE4>`` are single bytes.
        replacements: characters that stand for others, such as the SentencePiece space.
        strips_leading_space: one space at the very beginning of a text is not part of it.
    """

    byte_level: bool
    byte_fallback: bool
    replacements: dict[str, str]
    strips_leading_space: bool

    def piece(self, token: str) -> bytes:
        """The bytes that ``token`` adds to a text."""
        if self.byte_level:
            codes = [_BYTE_OF.get(character) for character in token]
            known = [code for code in codes if code is not None]
            return bytes(known) if len(known) == len(codes) else token.encode()
        if self.byte_fallback and (match := _BYTE_TOKEN.fullmatch(token)):
            return bytes([int(match[1], 16)])
        for old, new in self.replacements.items():
            token = token.replace(old, new)
        return token.encode()


def piece_rules(tokenizer: Tokenizer) -> PieceRules | None:
    """Rules of this tokenizer's decoder, or None if tokens have no text of their own under it."""
    steps = _decoder_steps(tokenizer)
    names = "".join(f"{step['type']} " for step in steps)
    if names == "ByteLevel ":
        return PieceRules(
            byte_level=True, byte_fallback=False, replacements={}, strips_leading_space=False
        )
    if not steps or not _CHAIN.fullmatch(names):
        return None
    replacements = [_replacement(step) for step in steps if step["type"] == "Replace"]
    strips = [_strips_one_space(step) for step in steps if step["type"] == "Strip"]
    # Strip without Fuse would work on each token instead of the whole text.
    if None in replacements or False in strips or (strips and "Fuse " not in names):
        return None
    return PieceRules(
        byte_level=False,
        byte_fallback="ByteFallback " in names,
        replacements=dict(pair for pair in replacements if pair is not None),
        strips_leading_space=bool(strips),
    )


def _decoder_steps(tokenizer: Tokenizer) -> list[dict[str, Any]]:
    decoder = tokenizer.decoder
    if decoder is None:
        return []
    # A tokenizer only tells its parts as a whole; one without vocabulary keeps that short.
    bare = Tokenizer(models.BPE())
    bare.decoder = decoder
    state = json.loads(bare.to_str())["decoder"]
    steps: list[dict[str, Any]] = state["decoders"] if state["type"] == "Sequence" else [state]
    return steps


def _replacement(step: dict[str, Any]) -> tuple[str, str] | None:
    # Longer patterns could match across tokens, and ASCII ones inside the name of a byte token.
    pattern = step["pattern"].get("String", "")
    return (pattern, step["content"]) if len(pattern) == 1 and not pattern.isascii() else None


def _strips_one_space(step: dict[str, Any]) -> bool:
    return (step["content"], step["start"], step["stop"]) == (" ", 1, 0)
