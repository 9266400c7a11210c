"""``loramux generate``: one prompt, continued in the terminal."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from loramux.cli import COMMANDS
from loramux.cli.engine_arguments import add_engine_arguments, engine_args_from
from loramux.errors import InvalidRequestError

if TYPE_CHECKING:
    from loramux.lora.request import LoRARequest
    from loramux.sampling_params import SamplingParams
    from loramux.server.engine_protocol import Engine


def add_parser(subparsers: Any) -> None:
    """Add the sub-command's parser."""
    parser = subparsers.add_parser(
        "generate",
        help=COMMANDS["generate"],
        usage='loramux generate MODEL "prompt" [options]',
        description="Continue one prompt with a base model, or with an adapter on it.",
        allow_abbrev=False,
    )
    parser.set_defaults(parser_error=parser.error)
    group = parser.add_argument_group("generation")
    add = group.add_argument
    add("--lora", metavar="PATH", help="adapter to use: a directory or a Hugging Face id")
    add("--max-tokens", type=int, default=128, metavar="INT",
        help="longest text, in tokens (default: 128)")  # fmt: skip
    add("--temperature", type=float, metavar="FLOAT", help="0 always takes the likeliest token")
    add("--top-p", type=float, metavar="FLOAT",
        help="draw from the likeliest tokens that together have this probability")  # fmt: skip
    add("--stop", nargs="+", metavar="TEXT", help="texts that end the generation")
    add_engine_arguments(parser)
    parser.add_argument("prompt", help="the text to continue")


def run(arguments: argparse.Namespace) -> int:
    """Print the text as it comes."""
    from loramux.lora.request import LoRARequest

    if arguments.model_tag is None and arguments.model is None:
        arguments.parser_error('give a MODEL and then a prompt: loramux generate MODEL "prompt"')
    changes = {"enable_lora": True} if arguments.lora else {}
    try:
        args = engine_args_from(arguments, arguments.parser_error, **changes)
    except InvalidRequestError as error:
        print(f"loramux generate: {error}", file=sys.stderr)
        return 2
    adapter = LoRARequest(arguments.lora, 1, arguments.lora) if arguments.lora else None
    _sampling_params(arguments, {})  # what is wrong with them is told before a model is loaded
    from loramux import AsyncLLMEngine

    engine = AsyncLLMEngine.from_engine_args(args)
    params = _sampling_params(arguments, engine.default_sampling_params())
    asyncio.run(_print_text(engine, arguments.prompt, params, adapter))
    return 0


def _sampling_params(arguments: argparse.Namespace, defaults: Mapping[str, Any]) -> SamplingParams:
    from loramux.sampling_params import RequestOutputKind, SamplingParams

    given = {name: getattr(arguments, name) for name in ("temperature", "top_p", "stop")}
    chosen = {name: value for name, value in given.items() if value is not None}
    return SamplingParams(
        **{**defaults, **chosen},
        max_tokens=arguments.max_tokens,
        output_kind=RequestOutputKind.DELTA,
    )


async def _print_text(
    engine: Engine, prompt: str, params: SamplingParams, adapter: LoRARequest | None
) -> None:
    try:
        async for output in engine.generate(prompt, params, "generate", adapter):
            if output.error is not None:
                raise output.error
            print(output.outputs[0].text, end="", flush=True)
        print()
    finally:
        await engine.shutdown()
