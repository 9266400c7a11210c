"""``loramux plugins``: which plugins are installed, what became of each, and a new one."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from textwrap import wrap
from typing import Any

from loramux.cli import COMMANDS
from loramux.cli.table import aligned
from loramux.errors import InvalidRequestError, PluginError
from loramux.plugins import collect_lora_resolvers, create_plugin_host, plugin_errors
from loramux_plugins import PluginInfo

_HEADINGS = ("NAME", "WHAT IT IS", "FROM", "STATE")
_KINDS = {"register_lora_resolvers": "LoRA resolver"}
"""What a plugin is that implements a hook; the host's own hooks make it nothing."""

_WIDTH = 100


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> argparse.ArgumentParser:
    """Add the command; its parser carries :func:`run` as ``args.run``."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "plugins",
        help=COMMANDS["plugins"],
        description=(
            "List the installed plugins, loaded as an engine would load them. LORAMUX_PLUGINS "
            "selects plugins by name; without it, every configured one is active."
        ),
        usage=(
            "loramux plugins [-h] [--json]\n       loramux plugins new [-h] [--directory DIR] NAME"
        ),
    )
    parser.add_argument("--json", action="store_true", help="print a JSON array")
    parser.set_defaults(run=run, act=_list)
    _add_new(parser.add_subparsers(metavar="ACTION", prog="loramux plugins"))
    return parser


def run(args: argparse.Namespace) -> int:
    """List the plugins, or write a new one."""
    return int(args.act(args))


def _add_new(subparsers: argparse._SubParsersAction[Any]) -> None:
    parser = subparsers.add_parser(
        "new",
        help="write a package with a resolver of your own to begin with",
        description=(
            "Write a package that adds a resolver to loramux: its module, its pyproject.toml with "
            "the entry point, and a test that inherits the contract for resolvers."
        ),
    )
    parser.add_argument("name", metavar="NAME", help="name of the package, such as my-resolver")
    parser.add_argument(
        "--directory", type=Path, metavar="DIR", help="where to write it (default: NAME)"
    )
    parser.set_defaults(act=_new)


def _new(args: argparse.Namespace) -> int:
    from loramux.plugin_template import PluginNames, write_plugin

    try:
        names = PluginNames.of(args.name)
        directory = args.directory or Path(names.distribution)
        written = write_plugin(names, directory)
    except InvalidRequestError as error:
        print(f"loramux plugins new: {error}", file=sys.stderr)
        return 2
    print("\n".join(map(str, written)))
    print(f"To begin: pip install -e '{directory}[test]' && pytest {directory}")
    return 0


def _list(args: argparse.Namespace) -> int:
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
    heading, *rows = aligned([_HEADINGS, *map(_cells, plugins)]).splitlines()
    lines = [heading]
    for plugin, row in zip(plugins, rows, strict=True):
        lines += [row, *_wrapped(plugin.error or "")]
    return "\n".join(lines)


def _cells(plugin: PluginInfo) -> tuple[str, ...]:
    return (
        plugin.name,
        ", ".join(_KINDS[hook] for hook in plugin.hooks if hook in _KINDS) or "-",
        f"{plugin.distribution or plugin.value} {plugin.version or ''}".rstrip(),
        plugin.state,
    )


def _wrapped(sentence: str) -> list[str]:
    """Beneath a row: a sentence in a column would make the table wider than any terminal."""
    return wrap(
        sentence,
        _WIDTH,
        initial_indent="    ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
