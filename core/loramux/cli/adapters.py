"""``loramux adapters``: which adapters are here, what is in one, and which model it fits."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from loramux import env
from loramux.engine.args import EngineArgs


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the command with its four actions."""
    parser = subparsers.add_parser(
        "adapters",
        help="list, inspect, verify and fetch adapters",
        description="Look at adapters without serving them.",
    )
    actions = parser.add_subparsers(metavar="ACTION", dest="action", required=True)
    _add_list(actions)
    _add_inspect(actions)
    _add_verify(actions)
    _add_pull(actions)


def run(args: argparse.Namespace) -> int:
    """Do what was asked for; returns the exit status."""
    from loramux.cli.adapter_actions import ACTIONS

    return ACTIONS[args.action](args)


def _add_list(actions: Any) -> None:
    parser = _add(actions, "list", "list the adapters in a directory")
    parser.add_argument(
        "directory",
        nargs="?",
        type=Path,
        metavar="DIR",
        help=f"where to look, at any depth (default: what {env.ADAPTER_DIRECTORY_VARIABLE} says)",
    )


def _add_inspect(actions: Any) -> None:
    parser = _add(actions, "inspect", "show what is in one adapter")
    parser.add_argument("path", type=Path, metavar="PATH", help="directory of the adapter")


def _add_verify(actions: Any) -> None:
    purpose = "check an adapter as an engine would, from the configuration of its base model alone"
    parser = _add(actions, "verify", purpose)
    parser.usage = "loramux adapters verify PATH --model MODEL [options]"
    add = parser.add_argument
    add("path", type=Path, metavar="PATH", help="directory of the adapter")
    add("--model", metavar="MODEL",
        help="base model it is to fit: a directory or a Hugging Face id")  # fmt: skip
    add("--served-model-name", nargs="+", metavar="NAME",
        help="other names of the base model that the adapter may state")  # fmt: skip
    add("--max-lora-rank", type=int, default=EngineArgs.max_lora_rank, metavar="INT",
        help="largest rank accepted (default: %(default)s)")  # fmt: skip
    add("--verify-lora-base", action=argparse.BooleanOptionalAction, default=True,
        help="refuse an adapter whose configuration names another base model")  # fmt: skip


def _add_pull(actions: Any) -> None:
    purpose = "ask the configured resolvers for an adapter and fetch it into the cache"
    add = _add(actions, "pull", purpose).add_argument
    add("name", metavar="NAME", help="what a request would give as its model")
    add("--model", default="", metavar="MODEL",
        help="base model it is wanted for, as `loramux serve` is given it")  # fmt: skip


def _add(actions: Any, name: str, purpose: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(
        name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.", allow_abbrev=False
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser
