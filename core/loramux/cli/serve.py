"""``loramux serve``: the HTTP server."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from loramux import env
from loramux.cli import COMMANDS
from loramux.cli.config_file import add_config_argument
from loramux.cli.engine_arguments import add_engine_arguments, engine_args_from
from loramux.cli.serve_locks import (
    access_options,
    add_access_arguments,
    add_connection_arguments,
    connection_options,
)
from loramux.cli.serve_tools import add_tool_arguments, tool_options
from loramux.cli.serve_watching import (
    add_watching_arguments,
    log_format_of,
    watching_options,
)
from loramux.errors import InvalidRequestError
from loramux.lora.resolve.catalog import AdapterModule

EXAMPLES = f"""\
examples:
  loramux serve MODEL --lora-modules sql=/srv/adapters/sql
                                            one adapter, named at the start
  {env.ADAPTER_DIRECTORY_VARIABLE}=/srv/adapters loramux serve MODEL --enable-lora
                                            every adapter there, when somebody asks for it

`loramux plugins` lists what else finds adapters, and what each has to be told.
"""


def add_parser(subparsers: Any) -> None:
    """Add the sub-command's parser."""
    parser = subparsers.add_parser(
        "serve",
        help=COMMANDS["serve"],
        usage="loramux serve MODEL [options]",
        description="Serve a base model and its adapters with the OpenAI API.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(parser_error=parser.error)
    add_config_argument(parser)
    _add_server_arguments(parser.add_argument_group("server"))
    add_access_arguments(parser.add_argument_group("who may do what"))
    add_connection_arguments(parser.add_argument_group("connections"))
    add_tool_arguments(parser.add_argument_group("tools in chats"))
    _add_adapter_arguments(parser.add_argument_group("adapters to begin with"))
    add_watching_arguments(parser.add_argument_group("logs, metrics and traces"))
    add_engine_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve until told to end."""
    from loramux.logger import configure_logging

    try:
        adapters = _adapters(arguments)
        changes: dict[str, Any] = {"enable_lora": True} if adapters else {}
        if arguments.lora_path:
            changes["served_model_name"] = None
        args = engine_args_from(arguments, arguments.parser_error, **changes)
    except InvalidRequestError as error:
        print(f"loramux serve: {error}", file=sys.stderr)
        return 2
    configure_logging(log_format=log_format_of(arguments))
    from loramux.server.chat.tools.options import ToolOptions
    from loramux.server.http.connections import ConnectionOptions
    from loramux.server.launch import serve
    from loramux.server.serve_options import ServeOptions

    options = ServeOptions(
        host=arguments.host,
        port=arguments.port,
        **access_options(arguments),
        connections=ConnectionOptions(**connection_options(arguments)),
        adapters=adapters,
        chat_template=arguments.chat_template,
        tools=ToolOptions(**tool_options(arguments)),
        max_body_bytes=arguments.max_body_bytes,
        max_queued_requests=arguments.max_queued_requests,
        shutdown_seconds=arguments.shutdown_seconds,
        uvicorn_log_level=arguments.uvicorn_log_level,
        **watching_options(arguments),
        dashboard=arguments.dashboard,
    )
    serve(args, options)
    return 0


def _add_server_arguments(group: Any) -> None:
    add = group.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    add(
        "--port",
        type=int,
        default=8000,
        help="port to listen on; 0 takes a free one (default: 8000)",
    )
    add("--chat-template", type=Path, metavar="FILE", help="Jinja template instead of the model's")
    add("--max-body-bytes", type=int, default=8 * 1024 * 1024, metavar="INT",
        help="longest request body accepted (default: 8388608)")  # fmt: skip
    add("--max-queued-requests", type=int, default=4096, metavar="INT",
        help="sequences (prompts times n) of all requests that may wait or run at one time; "
        "more are answered 429 (default: 4096)")  # fmt: skip
    add("--shutdown-seconds", type=int, default=30, metavar="INT",
        help="how long running requests may go on after SIGTERM (default: 30)")  # fmt: skip
    add("--no-dashboard", dest="dashboard", action="store_false",
        help="serve no page at / and no data for it")  # fmt: skip
    add("--uvicorn-log-level", default="warning",
        choices=("critical", "error", "warning", "info", "debug", "trace"),
        help="info also logs every request (default: warning)")  # fmt: skip


def _add_adapter_arguments(group: Any) -> None:
    add = group.add_argument
    add("--lora-modules", nargs="+", default=[], metavar="NAME=PATH",
        help='adapters to load at start, as NAME=PATH or as JSON: {"name": ..., "path": ..., '
        '"base_model_name": ...}; turns --enable-lora on')  # fmt: skip
    add("--lora-path", metavar="PATH",
        help="one adapter to load at start; it gets the --served-model-name, and the base model "
        "keeps its own name; turns --enable-lora on")  # fmt: skip


def _adapters(arguments: argparse.Namespace) -> tuple[AdapterModule, ...]:
    from loramux.server.serve_options import parse_adapter_module

    modules = [parse_adapter_module(text) for text in arguments.lora_modules if text]
    if arguments.lora_path:
        path = arguments.lora_path
        names = arguments.served_model_name or [Path(path).name]
        modules += [AdapterModule(name, path) for name in names]
    return tuple(modules)
