"""From a model's text to content and calls, as the text comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from loramux.server.chat.tools.call_object import (
    CallArguments,
    CallObject,
    CallStart,
    Content,
    Piece,
)


class ToolParser(Protocol):
    """Reads one completion."""

    def feed(self, text: str) -> list[Piece]:
        """What is known now that ``text`` has come."""

    def finish(self) -> list[Piece]:
        """What was held back, now that nothing more comes."""


class NamedCall:
    """The whole text is the arguments of one function."""

    def __init__(self, name: str) -> None:
        self._start: list[Piece] = [CallStart(name)]

    def feed(self, text: str) -> list[Piece]:
        """See ``ToolParser``."""
        start, self._start = self._start, []
        return [*start, CallArguments(text)] if text or start else []

    def finish(self) -> list[Piece]:
        """See ``ToolParser``."""
        return self.feed("")


class _Call:
    """A call being read, and the text that it is made of, should it turn out to be none."""

    def __init__(self, before: str) -> None:
        self._raw = [before]
        self.object = CallObject()
        self._is_told = False

    def feed(self, character: str) -> list[Piece]:
        self._raw.append(character)
        self.object.feed(character)
        if self.object.is_over:
            self.object.end()
        return self._pieces()

    def _pieces(self) -> list[Piece]:
        if not self.object.is_named:
            return []
        start: list[Piece] = [] if self._is_told else [CallStart(self.object.name())]
        self._is_told = True
        return start + self.object.take()

    @property
    def is_no_call(self) -> bool:
        """Whether it was something else, and nothing has been told of it."""
        return not self._is_told and (self.object.is_broken or self.object.is_over)

    @property
    def is_done(self) -> bool:
        return self.object.is_over or self.object.is_broken

    def rest(self) -> list[Piece]:
        """The text itself where nothing was told of it."""
        return [] if self._is_told else [Content("".join(self._raw))]


class HermesParser:
    """``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``, any number, within text."""

    OPENING = "<tool_call>"
    CLOSING = "</tool_call>"

    def __init__(self) -> None:
        self._space: list[str] = []
        """Before what may turn out to be a tag; not looked at again with each character."""
        self._tag = ""
        """The beginning of one, or while calls are skipped the latest characters."""
        self._call: _Call | None = None
        self._has_calls = False
        self._skips = False
        """Between a call's last brace and its closing tag."""

    def feed(self, text: str) -> list[Piece]:
        """See ``ToolParser``."""
        pieces: list[Piece] = []
        for character in text:
            pieces += self._character(character)
        return pieces

    def finish(self) -> list[Piece]:
        """See ``ToolParser``."""
        if self._call is not None:
            return self._call.rest()
        held = self._take_held()
        is_nothing = self._skips or (self._has_calls and not held.strip())
        return [Content(held)] if held and not is_nothing else []

    def _character(self, character: str) -> list[Piece]:
        if self._call is not None:
            return self._in_call(self._call, character)
        if self._skips:
            return self._after_call(character)
        if character.isspace() and not self._tag:
            self._space.append(character)
        elif self.OPENING.startswith(self._tag + character):
            self._tag += character
        else:
            return self._give_back(character)
        if self._tag == self.OPENING:
            self._call = _Call(self._take_held())
        return []

    def _in_call(self, call: _Call, character: str) -> list[Piece]:
        pieces = call.feed(character)
        if not call.is_done:
            return pieces
        self._call = None
        if call.is_no_call:
            return call.rest()
        self._has_calls = self._skips = True
        return pieces

    def _after_call(self, character: str) -> list[Piece]:
        self._tag = (self._tag + character)[-len(self.CLOSING) :]
        if self._tag == self.CLOSING:
            self._tag, self._skips = "", False
        return []

    def _give_back(self, character: str) -> list[Piece]:
        """What was held is text; the character after it may begin another tag."""
        text = self._take_held()
        if character.isspace():
            self._space.append(character)
        elif self.OPENING.startswith(character):
            self._tag = character
        else:
            text += character
        return [Content(text)]

    def _take_held(self) -> str:
        held = "".join(self._space) + self._tag
        self._space, self._tag = [], ""
        return held


class JsonParser:
    """``{"name": ..., "parameters": {...}}`` and nothing before it, as Llama 3 writes it.

    Args:
        opening: what may stand before the first brace.
        between: characters that separate calls.
    """

    def __init__(self, opening: str = "<|python_tag|>", between: str = "; \n") -> None:
        self._opening = opening
        self._between = between
        self._before: list[str] = []
        self._call: _Call | None = None
        self._is_text = False
        self._has_calls = False

    def feed(self, text: str) -> list[Piece]:
        """See ``ToolParser``."""
        pieces: list[Piece] = []
        for place, character in enumerate(text):
            if self._is_text:
                return [*pieces, Content(text[place:])]
            pieces += self._character(character)
        return pieces

    def finish(self) -> list[Piece]:
        """See ``ToolParser``."""
        if self._call is not None:
            return self._call.rest()
        return [Content(self._take_before())] if self._before and not self._has_calls else []

    def _character(self, character: str) -> list[Piece]:
        if self._call is None:
            if not self._begins(character):
                return self._beside_call(character)
            self._call = _Call(self._take_before())
        pieces = self._call.feed(character)
        if self._call.is_no_call:
            self._is_text = True
            pieces = self._call.rest()
        if self._call.is_done:
            self._has_calls |= not self._is_text
            self._call = None
        return pieces

    def _begins(self, character: str) -> bool:
        return character == "{" and "".join(self._before).strip() in ("", self._opening)

    def _beside_call(self, character: str) -> list[Piece]:
        if self._has_calls and character in self._between:
            return []
        self._before.append(character)
        if not self._has_calls and self._may_open(character):
            return []
        self._is_text = True
        return [Content(self._take_before())]

    def _may_open(self, latest: str) -> bool:
        """Space changes nothing, and would be much to look at with each character."""
        return latest.isspace() or self._opening.startswith("".join(self._before).strip())

    def _take_before(self) -> str:
        before, self._before = "".join(self._before), []
        return before


def required_calls() -> JsonParser:
    """Of a JSON array of calls, which a grammar guarantees."""
    return JsonParser("[", ", \n\r\t]")


PARSERS: dict[str, Callable[[], ToolParser]] = {
    "hermes": HermesParser,
    "llama3_json": JsonParser,
}
"""What ``--tool-call-parser`` takes; vLLM's names."""
