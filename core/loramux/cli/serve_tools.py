"""The flags of ``loramux serve`` about tools that a model may call."""

from __future__ import annotations

import argparse
from typing import Any


def add_tool_arguments(group: Any) -> None:
    """Add them; their names are vLLM's."""
    add = group.add_argument
    add("--enable-auto-tool-choice", action="store_true",
        help="let the model choose whether to call a tool; needs --tool-call-parser")  # fmt: skip
    add("--tool-call-parser", metavar="NAME",
        help="how the model writes calls: hermes (<tool_call>...) or llama3_json")  # fmt: skip


def tool_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What they say, as arguments of ``ToolOptions``."""
    return {
        "enable_auto_tool_choice": arguments.enable_auto_tool_choice,
        "tool_call_parser": arguments.tool_call_parser,
    }
