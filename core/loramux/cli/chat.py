"""``loramux chat``: a conversation in the terminal."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from loramux import env
from loramux.cli import COMMANDS
from loramux.cli.engine_arguments import add_engine_arguments, engine_args_from
from loramux.cli.serve_locks import API_KEY_VARIABLE
from loramux.errors import InvalidRequestError, LoramuxError
from loramux.lora.checkpoint.untrusted import shown

if TYPE_CHECKING:
    from loramux.cli.chat_partners import Message, Partner

COMMAND_HINT = "/new begins anew, /exit or Ctrl-D ends, Ctrl-C stops an answer"
WELCOME = f"Say something. {COMMAND_HINT}."


def add_parser(subparsers: Any) -> None:
    """Add the sub-command's parser."""
    parser = subparsers.add_parser(
        "chat",
        help=COMMANDS["chat"],
        usage="loramux chat MODEL [options]\n       loramux chat --url URL [options]",
        description="Talk to a model that is loaded for it, or to one that a server runs.",
        allow_abbrev=False,
    )
    parser.set_defaults(parser_error=parser.error)
    add = parser.add_argument_group("chat").add_argument
    add("--url", metavar="URL", help="server to talk to, such as http://127.0.0.1:8000; MODEL is "
        "then the name of one of its models, the first one unless told")  # fmt: skip
    add("--api-key", metavar="KEY", help=f"for --url; also read from {API_KEY_VARIABLE}")
    add("--lora", metavar="ADAPTER", help="adapter to talk to: a directory or a Hugging Face id, "
        "or with --url its name")  # fmt: skip
    add("--system", metavar="TEXT", help="what the model is told first")
    add("--max-tokens", type=int, metavar="INT", help="longest answer, in tokens")
    add("--temperature", type=float, metavar="FLOAT", help="0 always takes the likeliest token")
    add("--top-p", type=float, metavar="FLOAT",
        help="draw from the likeliest tokens that together have this probability")  # fmt: skip
    add_engine_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Talk until the input ends; 1 if it was piped in, and a part of it has no answer."""
    try:
        partner = _remote(arguments) if arguments.url else _local(arguments)
    except InvalidRequestError as error:
        print(f"loramux chat: {error}", file=sys.stderr)
        return 2
    try:
        is_answered = converse(partner, arguments.system)
    finally:
        partner.close()
    return 0 if is_answered or sys.stdin.isatty() else 1


def converse(partner: Partner, system: str | None) -> bool:
    """Ask for lines, and print the answers as they come.

    Returns whether each of them has one.
    """
    beginning: list[Message] = [{"role": "system", "content": system}] if system else []
    messages = list(beginning)
    is_answered = True
    if sys.stdin.isatty():
        print(WELCOME)
    for line in _lines():
        if line == "/exit":
            break
        if line == "/new":
            messages = list(beginning)
            continue
        if line.startswith("/"):
            word = shown(line.split()[0])
            print(f"loramux chat: there is no command {word}; {COMMAND_HINT}.", file=sys.stderr)
            continue
        messages.append({"role": "user", "content": line})
        answer = _answer(partner, messages)
        if answer is None:
            is_answered = False
            messages.pop()
        else:
            messages.append({"role": "assistant", "content": answer})
    return is_answered


def _answer(partner: Partner, messages: list[Message]) -> str | None:
    """Print an answer; None where there was none."""
    pieces: list[str] = []
    answer = partner.answer(messages)
    try:
        for piece in answer:
            pieces.append(piece)
            print(piece, end="", flush=True)
    except LoramuxError as error:
        print(f"loramux chat: {error}", file=sys.stderr)
        return None
    except KeyboardInterrupt:
        print(" (stopped)", end="")
    finally:
        answer.close()
    print()
    return "".join(pieces)


def _lines() -> Iterator[str]:
    """What is typed, or piped in, line by line, without empty ones."""
    prompt = "> " if sys.stdin.isatty() else ""
    while True:
        try:
            line = input(prompt).strip()
        except (EOFError, KeyboardInterrupt):
            return
        if line:
            yield line


def _choices(arguments: argparse.Namespace) -> dict[str, Any]:
    given = {name: getattr(arguments, name) for name in ("max_tokens", "temperature", "top_p")}
    return {name: value for name, value in given.items() if value is not None}


def _remote(arguments: argparse.Namespace) -> Partner:
    from loramux.cli.chat_partners import RemotePartner

    key = arguments.api_key or env.read_text(API_KEY_VARIABLE)
    model = arguments.lora or arguments.model_tag or arguments.model
    return RemotePartner(arguments.url, key, model, _choices(arguments))


def _local(arguments: argparse.Namespace) -> Partner:
    changes = {"enable_lora": True} if arguments.lora else {}
    args = engine_args_from(arguments, arguments.parser_error, **changes)
    from loramux.cli.chat_partners import LocalPartner

    return LocalPartner(args, arguments.lora, _choices(arguments))
