"""``loramux plugins``: which plugins are installed, and what became of each."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from loramux.errors import PluginError
from loramux.plugins import collect_lora_resolvers, create_plugin_host, plugin_errors
from loramux_plugins import PluginInfo

_HEADINGS = ("NAME", "STATE", "VERSION", "DISTRIBUTION", "HOOKS", "ERROR")


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> argparse.ArgumentParser:
    """Add the command; its parser carries :func:`run` as ``args.run``."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "plugins",
        help="list the installed plugins and what became of each",
        description=(
            "List the installed plugins, loaded as an engine would load them. LORAMUX_PLUGINS "
            "selects plugins by name; without it, every configured one is active."
        ),
    )
    parser.add_argument("--json", action="store_true", help="print a JSON array")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Print the list; returns 1, after the list, if an engine would refuse to start."""
    host = create_plugin_host()
    refusal: PluginError | None = None
    try:
        with plugin_errors():
            host.load()
        collect_lora_resolvers(host)
    except PluginError as error:
        refusal = error
    plugins = host.describe()
    print(_as_json(plugins) if args.json else _as_table(plugins))
    if refusal is not None:
        print(f"loramux: {refusal}", file=sys.stderr)
    return int(refusal is not None)


def _as_json(plugins: list[PluginInfo]) -> str:
    return json.dumps([plugin.as_json() for plugin in plugins], indent=2)


def _as_table(plugins: list[PluginInfo]) -> str:
    if not plugins:
        return "no plugins are installed"
    rows = [_HEADINGS, *(_cells(plugin) for plugin in plugins)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def _cells(plugin: PluginInfo) -> tuple[str, ...]:
    return (
        plugin.name,
        plugin.state,
        plugin.version or "-",
        plugin.distribution or "-",
        ",".join(plugin.hooks) or "-",
        plugin.error or "",
    )
