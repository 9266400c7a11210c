"""The form of an answer that must call tools."""

from __future__ import annotations

from typing import Any

from loramux.server.chat.tools.request import Tool, ToolFields
from loramux.server.http.errors import bad_request
from loramux.structured_outputs import StructuredOutputsParams


def form_of_calls(fields: ToolFields) -> StructuredOutputsParams | None:
    """What the text has to be: the arguments of the tool that is named, or a list of calls.

    Raises:
        ApiError: two tools define different things under one name.
        InvalidRequestError: a tool's schema is too long.
    """
    if (tool := fields.named_tool) is not None:
        return StructuredOutputsParams(json=tool.function.schema_of_arguments)
    if fields.tool_choice != "required":
        return None
    definitions: dict[str, Any] = {}
    calls = [_call(tool, definitions) for tool in fields.tools]
    schema: dict[str, Any] = {"type": "array", "minItems": 1, "items": {"anyOf": calls}}
    if not fields.parallel_tool_calls:
        schema["maxItems"] = 1
    return StructuredOutputsParams(json={**schema, "$defs": definitions})


def _call(tool: Tool, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of a call, its ``$defs`` moved to where references look for them."""
    schema = dict(tool.function.schema_of_arguments)
    for name, definition in schema.pop("$defs", {}).items():
        if definitions.setdefault(name, definition) != definition:
            raise bad_request(f"Two tools define {name!r} differently; rename one.", "tools")
    return {
        "type": "object",
        "properties": {"name": {"const": tool.function.name}, "parameters": schema},
        "required": ["name", "parameters"],
        "additionalProperties": False,
    }
