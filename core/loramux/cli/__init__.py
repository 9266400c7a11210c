"""The command ``loramux``. A sub-command's module is imported when that sub-command is called."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

from loramux.cli.config_file import with_config_first

COMMANDS = {
    "serve": "answer requests over HTTP, with the OpenAI API",
    "generate": "continue one prompt and print the text",
    "chat": "talk to a model in the terminal",
    "bench": "measure what adapters cost on this machine",
    "adapters": "list, inspect, verify and fetch adapters",
    "plugins": "list what finds adapters, or begin a plugin of your own",
}
"""Sub-command to what it does. ``loramux.cli.NAME`` has ``add_parser(subparsers)`` and ``run``."""


UNREAD = 128 + 13
"""The status of a command that SIGPIPE (13) ends, as a shell tells it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command; what it returns is the exit status.

    1 means that it could not be done, 2 that it was asked for in a way that makes no sense.
    """
    try:
        try:
            return _run(argv)
        finally:
            print(end="", flush=True)  # at the interpreter's end it would be too late to catch
    except BrokenPipeError:
        _write_no_more()
        return UNREAD


def _write_no_more() -> None:
    """Whoever read the output has left; what is still to be flushed goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())


def _run(argv: Sequence[str] | None) -> int:
    from loramux.errors import LoramuxError
    from loramux.logger import hide_progress_bars

    if not sys.stderr.isatty():
        hide_progress_bars()
    words = with_config_first(_with_dashes(sys.argv[1:] if argv is None else argv))
    parser, command = _parser(words)
    arguments = parser.parse_args(words)
    try:
        return int(import_module(f"loramux.cli.{command}").run(arguments))
    except LoramuxError as error:
        print(f"loramux {command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


class Parser(argparse.ArgumentParser):
    """Says what an unknown flag may have been meant to be; its sub-commands' parsers do too."""

    def parse_known_args(  # type: ignore[override]  # what is not known ends the program
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Read the arguments; the list is empty, for what is not known is an error."""
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._meant_by(unknown)}")
        return known, unknown

    def _meant_by(self, unknown: Sequence[str]) -> str:
        flags = [word.partition("=")[0] for word in unknown if word.startswith("--")]
        nearest = [get_close_matches(flag, self._option_string_actions, 1) for flag in flags]
        names = ", ".join(name for names in nearest for name in names)
        return f" (did you mean {names}?)" if names else ""


def _parser(words: Sequence[str]) -> tuple[argparse.ArgumentParser, str]:
    """A parser that knows the sub-command asked for in full, and the others by name."""
    from loramux import __version__

    parser = Parser(
        prog="loramux",
        description="Serve one base model and any number of LoRA adapters.",
        epilog="`loramux COMMAND --help` says more.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"loramux {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    command = words[0] if words else ""
    for name, purpose in COMMANDS.items():
        if name == command:
            import_module(f"loramux.cli.{name}").add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=purpose)
    return parser, command


def _with_dashes(words: Sequence[str]) -> list[str]:
    """``--max_loras`` means ``--max-loras``, as it does in vLLM."""
    return [_with_dashes_in_name(word) if word.startswith("--") else word for word in words]


def _with_dashes_in_name(word: str) -> str:
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value
