"""Messages as clients send them, and as chat templates expect them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from loramux.errors import InvalidRequestError
from loramux.server.chat.tools.messages import plain_tool_calls

ALWAYS_SAY_SOMETHING = frozenset({"user", "system", "developer"})
"""Roles whose messages are nothing but their content."""


def plain_messages(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each message with its content as one string, and without what is null.

    Raises:
        InvalidRequestError: one of them is not what OpenAI's API takes, or is not text.
    """
    return [_plain(f"messages[{number}]", message) for number, message in enumerate(messages)]


def _plain(where: str, message: dict[str, Any]) -> dict[str, Any]:
    _check(where, message)
    given = {key: value for key, value in message.items() if value is not None}
    if "tool_calls" in given:
        given["tool_calls"] = plain_tool_calls(where, given["tool_calls"])
    return {**given, "content": _text(where, message.get("content"))}


def _check(where: str, message: dict[str, Any]) -> None:
    role = message.get("role")
    if not role or not isinstance(role, str):
        raise InvalidRequestError(f"{where} has no role; give it one.", where)
    if role in ALWAYS_SAY_SOMETHING and message.get("content") is None:
        raise InvalidRequestError(f"{where} has no content; give it some.", where)
    if not isinstance(message.get("name", ""), str | None):
        raise InvalidRequestError(f"{where} has a name that is no string; give it one.", where)
    for name in ("function_call", "audio"):
        if message.get(name):
            raise InvalidRequestError(f"{where} has {name!r}, which is not supported.", where)


def _text(where: str, content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise InvalidRequestError(
            f"{where} has content of type {type(content).__name__!r}; give it a string, or a list "
            "of parts.",
            where,
        )
    return "\n".join(_text_of_part(where, part) for part in content)


def _text_of_part(where: str, part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    if kind != "text":
        raise InvalidRequestError(
            f"{where} has content of type {kind!r}; only text is supported, as "
            '{"type": "text", "text": "..."}.',
            where,
        )
    if not isinstance(part.get("text"), str):
        raise InvalidRequestError(
            f"{where} has a part of type 'text' without a text; give it one.", where
        )
    return str(part["text"])
