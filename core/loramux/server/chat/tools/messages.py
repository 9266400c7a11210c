"""Calls and their results on the way back to the model."""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json

from loramux.errors import InvalidRequestError


def plain_tool_calls(where: str, calls: Any) -> list[dict[str, Any]]:
    """``tool_calls`` of an assistant's message with arguments as values, which templates expect.

    Raises:
        InvalidRequestError: they are not what this API answers.
    """
    if not isinstance(calls, list):
        raise InvalidRequestError(f"{where}.tool_calls must be a list.", where)
    return [_plain(f"{where}.tool_calls[{number}]", call) for number, call in enumerate(calls)]


def _plain(where: str, call: Any) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidRequestError(f"{where} has no function with a name; give it one.", where)
    return {**call, "function": {**function, "arguments": _arguments(where, function)}}


def _arguments(where: str, function: dict[str, Any]) -> dict[str, Any]:
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = from_json(arguments, cache_strings="keys")
        except ValueError as error:
            raise InvalidRequestError(
                f"{where} has arguments that are no JSON: {error}.", where
            ) from error
    if not isinstance(arguments, dict):
        raise InvalidRequestError(f"{where} must have a JSON object as arguments.", where)
    return arguments
