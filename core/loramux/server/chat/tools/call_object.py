"""One call as models write it: a JSON object with a name and arguments, read as it comes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic_core import from_json

ARGUMENT_KEYS = frozenset({"arguments", "parameters"})


@dataclass(frozen=True)
class Content:
    """Text that is no call."""

    text: str


@dataclass(frozen=True)
class CallStart:
    """From here on, arguments belong to a call of this function."""

    name: str


@dataclass(frozen=True)
class CallArguments:
    """More of the arguments' JSON."""

    text: str


Piece = Content | CallStart | CallArguments


class CallObject:
    """Follows the characters of ``{"name": "f", "arguments": {...}}``, its keys in any order.

    ``is_over`` tells that its last brace has come, ``is_broken`` that it is no such object.
    """

    def __init__(self) -> None:
        self.is_over = False
        self.is_broken = False
        self.is_named = False
        self._depth = 0
        self._in_string = False
        self._is_escaped = False
        self._key: str | None = None
        self._text: list[str] = []
        """What has come of the current key, or of the current value, as characters: a text that
        grew by one at a time would be copied with each."""
        self._arguments: list[str] | None = None
        """Arguments that nobody has been told of yet."""

    def feed(self, character: str) -> None:
        """Take in the next character."""
        if self._in_string:
            self._put(character)
            self._follow_string(character)
        elif not self._depth:
            self._depth = int(character == "{")
            self.is_broken = character != "{" and not character.isspace()
        elif character in "}]" and self._depth == 1:
            self._end_member()
            self.is_over = not self.is_broken
        elif character == "," and self._depth == 1:
            self._end_member()
        elif character == ":" and self._depth == 1 and self._key is None:
            self._end_key()
        else:
            self._depth += (character in "{[") - (character in "}]")
            self._in_string = character == '"'
            self._put(character)

    def take(self) -> list[Piece]:
        """What is new, once the name is known."""
        if not self.is_named or self._arguments is None:
            return []
        text, self._arguments = "".join(self._arguments), []
        return [CallArguments(text)] if text else []

    def name(self) -> str:
        """The function's name; known once ``is_named``."""
        return self._name

    def _follow_string(self, character: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif character == "\\":
            self._is_escaped = True
        elif character == '"':
            self._in_string = False

    def _put(self, character: str) -> None:
        if character.isspace() and self._is_beside_value():
            return
        self._text.append(character)
        if self._key in ARGUMENT_KEYS:
            self._arguments = self._arguments or []
            self._arguments.append(character)

    def _is_beside_value(self) -> bool:
        """Whether a key or a value has not begun, or has come to its last brace."""
        return not self._text or (self._depth == 1 and self._text[-1] == "}")

    def _end_key(self) -> None:
        key = _string(self._text)
        self.is_broken = key is None
        self._key, self._text = key, []

    def _end_member(self) -> None:
        if self._key is None:
            self.is_broken = bool(self._text)
        elif self._key == "name":
            name = _string(self._text)
            self.is_broken = name is None
            self.is_named, self._name = name is not None, name or ""
        self._key, self._text = None, []

    def end(self) -> None:
        """Without arguments, a call has empty ones."""
        if self._arguments is None:
            self._arguments = ["{}"]


def _string(characters: Sequence[str]) -> str | None:
    try:
        value = from_json("".join(characters))
    except ValueError:
        return None
    return value if isinstance(value, str) else None
