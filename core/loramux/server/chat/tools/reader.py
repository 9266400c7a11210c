"""From pieces of calls to the messages and deltas of the OpenAI API."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from loramux.server.chat.tools.call_object import CallArguments, CallStart, Content, Piece
from loramux.server.chat.tools.parsers import NamedCall, ToolParser, required_calls
from loramux.server.chat.tools.request import ToolFields


class CallReader:
    """Follows one choice of an answer.

    Args:
        parser: of the choice's text.
        single: give the first call only.
    """

    def __init__(self, parser: ToolParser, single: bool) -> None:
        self._parser = parser
        self._single = single
        self.num_calls = 0

    @classmethod
    def of(cls, fields: ToolFields, make_parser: Any) -> CallReader:
        """As a request wants its calls read; ``make_parser`` is for those that may call."""
        single = not fields.parallel_tool_calls
        if (tool := fields.named_tool) is not None:
            return cls(NamedCall(tool.function.name), single)
        return cls(required_calls() if fields.must_call else make_parser(), single)

    def delta(self, text: str, is_last: bool) -> dict[str, Any]:
        """``content`` and ``tool_calls`` of what has come, where there is any."""
        pieces = self._parser.feed(text) + (self._parser.finish() if is_last else [])
        content = "".join(piece.text for piece in pieces if isinstance(piece, Content))
        calls = self._merged(pieces)
        delta: dict[str, Any] = {"content": content} if content else {}
        return {**delta, "tool_calls": calls} if calls else delta

    def message(self, text: str) -> dict[str, Any]:
        """The same of a whole text; a message of calls alone has no content."""
        delta = self.delta(text, is_last=True)
        calls = [
            {name: value for name, value in call.items() if name != "index"}
            for call in delta.get("tool_calls", [])
        ]
        content = delta.get("content", None if calls else "")
        return {"content": content, "tool_calls": calls} if calls else {"content": content}

    def _merged(self, pieces: Iterable[Piece]) -> list[dict[str, Any]]:
        """One entry for each call that the pieces belong to."""
        calls: dict[int, dict[str, Any]] = {}
        arguments: defaultdict[int, list[str]] = defaultdict(list)
        for piece in pieces:
            if isinstance(piece, CallStart):
                self.num_calls += 1
                calls[self.num_calls - 1] = self._start(piece.name)
            elif isinstance(piece, CallArguments):
                index = self.num_calls - 1
                calls.setdefault(index, {"index": index, "function": {}})
                arguments[index].append(piece.text)
        for index, call in calls.items():
            call["function"]["arguments"] = "".join(arguments[index])
        return [call for index, call in calls.items() if not (self._single and index)]

    def _start(self, name: str) -> dict[str, Any]:
        return {
            "index": self.num_calls - 1,
            "id": f"call_{uuid.uuid4().hex[:24]}",
            "type": "function",
            "function": {"name": name},
        }
