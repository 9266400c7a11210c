"""``loramux bench``: measurements anybody can repeat on their own machine."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from loramux import field_checks as check
from loramux.cli import COMMANDS
from loramux.cli.engine_arguments import reported

if TYPE_CHECKING:
    from loramux.bench.settings import Settings

Number = TypeVar("Number", int, float)

DESCRIPTION = """\
Measure what adapters cost, on a random model: nothing is downloaded.

  throughput  tokens per second without LoRA, and with 1, 8 and 32 adapters in every batch
  http        tokens per second of 256 streams from a server, over LLM.generate's on the same work
  cold        time to the first token of the base model, of a warm adapter, of one never seen
  storm       what running streams notice while adapters are asked for beside them
  memory      device memory of an adapter, start of a server, more adapters than fit
  model       write the random model to a directory, to serve it with something else

Without a name, or with all, the first five run one after the other. http, cold and storm talk to an
OpenAI-compatible server: one they start themselves, or the one at --base-url. Of two defaults, the
first is that of the shape tiny and the second that of llama-3.1-8b.
"""

EXAMPLES = """\
examples:
  loramux bench                                     all of it, small enough for a CPU
  loramux bench --shape llama-3.1-8b --load-format dummy --json figures.json
  loramux bench storm --shape llama-3.1-8b --load-format dummy --quick
  loramux bench cold --shape llama-3.1-8b --base-url http://127.0.0.1:8000 --model base \\
      --adapters-dir /srv/adapters                  a server that runs already
"""

ENGINE_ARGS = '{"max_num_batched_tokens": 8192}'

CHOICES = ("all", "throughput", "http", "cold", "storm", "memory", "model")


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> argparse.ArgumentParser:
    """Add the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "bench",
        help=COMMANDS["bench"],
        usage="loramux bench [all | throughput | http | cold | storm | memory | model] [options]",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "benchmark", nargs="?", choices=CHOICES, default="all", help=argparse.SUPPRESS
    )
    parser.set_defaults(parser_error=parser.error)
    _add_general(parser)
    _add_throughput(parser.add_argument_group("throughput"))
    _add_http(parser.add_argument_group("http (with throughput's --output-len and --repeats)"))
    _add_streams(parser.add_argument_group("cold and storm"))
    _add_memory(parser.add_argument_group("memory"))
    _add_server(parser.add_argument_group("a server that runs already (http, cold and storm)"))
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; 1 if one of several could not be made.

    The ceilings are those that the first of them measured.
    """
    settings = _settings(arguments)
    _check_place(arguments)
    if arguments.benchmark == "model":
        return _write_model(arguments, settings)
    from loramux.bench.report import table
    from loramux.bench.run import failed, run_benchmark, run_each

    every = arguments.benchmark == "all"
    reports = run_each(settings) if every else [run_benchmark(arguments.benchmark, settings)]
    merged: dict[str, Any] = {}
    for report in reports:
        new = {name: section for name, section in report.items() if name not in merged}
        merged.update(new)
        if arguments.json != "-":
            print(table(new) + "\n", flush=True)  # a long run shows each when it is there
        if arguments.json not in (None, "-"):
            Path(arguments.json).write_text(_as_json(merged), encoding="utf-8")
    if arguments.json == "-":
        print(_as_json(merged), end="")
    return int(failed(merged))


def _as_json(report: Mapping[str, Any]) -> str:
    return json.dumps(report, indent=2) + "\n"


def _add_general(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--shape", default="tiny", metavar="NAME",
        help="shape of the model: tiny, or llama-3.1-8b for a GPU; the other defaults go with it "
        "(default: tiny)")  # fmt: skip
    add("--load-format", choices=("auto", "dummy"), default="auto",
        help="auto writes the model's weights to disk and reads them, dummy makes them where they "
        "are needed (default: auto)")  # fmt: skip
    add("--quick", action="store_true",
        help="a quarter of the time and of the samples, every throughput once")  # fmt: skip
    add("--json", metavar="FILE", help="write the figures as JSON, too; - prints JSON only")
    add("--scratch", type=Path, metavar="DIR",
        help="where models and adapters are written for the time being")  # fmt: skip
    add("--engine-args", type=reported(partial(check.json_object, "engine_args", ENGINE_ARGS)),
        default={}, metavar="JSON",
        help=f"more arguments for every engine, like {ENGINE_ARGS}")  # fmt: skip
    add("--output", type=Path, metavar="DIR", help="where loramux bench model writes")
    add("--input-len", type=int, metavar="INT", help="prompt tokens of a request (64, or 512)")


def _add_throughput(group: Any) -> None:
    add = group.add_argument
    add("--requests", type=int, metavar="INT", help="requests, all sent at once (32, or 256)")
    add("--output-len", type=int, metavar="INT", help="output tokens of a request (32, or 128)")
    add("--repeats", type=int, metavar="INT", help="runs of each case; the best counts (3)")
    add("--adapters", type=_integers, metavar="LIST",
        help="how many adapters are mixed, a case each (1,8,32)")  # fmt: skip
    add("--ranks", type=_integers, metavar="LIST",
        help="ranks, dealt out to the adapters in turn (16)")  # fmt: skip
    add("--bound-batch", type=int, metavar="INT",
        help="requests of the decode that is held against its bound (16, or 64)")  # fmt: skip
    add("--peft", action="store_true",
        help="the same requests through PEFT, one at a time; takes long")  # fmt: skip


def _add_http(group: Any) -> None:
    group.add_argument("--concurrent", type=int, metavar="INT",
        help="requests, all sent at once (256)")  # fmt: skip


def _add_streams(group: Any) -> None:
    add = group.add_argument
    add("--streams", type=int, metavar="INT", help="base requests that run beside (4, or 16)")
    add("--seconds", type=float, metavar="SECONDS", help="length of each phase of storm (5, or 20)")
    add("--samples", type=int, metavar="INT", help="requests of each kind in cold (20)")
    add("--rates", type=_numbers, metavar="LIST",
        help="adapters asked for each second in storm, a phase each (1,4, or 5,20)")  # fmt: skip
    add("--unknown-rate", type=float, metavar="NUMBER",
        help="names of no adapter asked for each second (4, or 20)")  # fmt: skip
    add("--warm-adapters", type=int, metavar="INT",
        help="resident adapters that storm asks for in turn (4, or 16)")  # fmt: skip
    add("--answer-len", type=int, metavar="INT",
        help="output tokens of requests for an adapter (8)")  # fmt: skip


def _add_memory(group: Any) -> None:
    add = group.add_argument
    add("--num-adapters", type=int, metavar="INT", help="adapters that requests are for (1000)")
    add("--resident", type=int, metavar="INT",
        help="adapters that have room on the device (8, or 64)")  # fmt: skip
    add("--power-law-requests", type=int, metavar="INT",
        help="requests for them, most for few (64, or 512)")  # fmt: skip
    add("--rank", type=int, metavar="INT", help="rank of all adapters but throughput's (16)")
    add("--max-loras", type=int, metavar="INT", help="adapters in one batch (32)")


def _add_server(group: Any) -> None:
    add = group.add_argument
    add("--base-url", metavar="URL", help="like http://127.0.0.1:8000, with /v1 or without")
    add("--api-key", metavar="KEY", help="if the server wants one")
    add("--model", metavar="NAME", help="the base model's name there")
    add("--adapters-dir", type=Path, metavar="DIR",
        help="where that server looks for adapters; new ones are written there and removed "
        "afterwards")  # fmt: skip


def _settings(arguments: argparse.Namespace) -> Settings:
    from dataclasses import fields

    from loramux.bench.settings import SHAPE_NAMES, Settings, settings_for

    if arguments.shape not in SHAPE_NAMES:
        arguments.parser_error(
            f"--shape must be one of {', '.join(SHAPE_NAMES)}, got {arguments.shape!r}"
        )
    names = {field.name for field in fields(Settings)} - {"shape"}
    given = {name: value for name, value in vars(arguments).items() if name in names}
    return settings_for(arguments.shape, quick=arguments.quick, **given)


def _check_place(arguments: argparse.Namespace) -> None:
    """A file that cannot be written is told before anything is measured, not an hour later."""
    if arguments.json not in (None, "-") and not Path(arguments.json).absolute().parent.is_dir():
        arguments.parser_error(
            f"--json {arguments.json} is in no directory that there is; make it, or name another"
        )


def _write_model(arguments: argparse.Namespace, settings: Settings) -> int:
    from loramux.bench.random_model import SHAPES, write_model

    if arguments.output is None:
        arguments.parser_error("loramux bench model needs --output DIR")
    weights = settings.load_format == "auto"
    write_model(arguments.output, SHAPES[settings.shape], weights=weights)
    print(arguments.output)
    return 0


def _integers(text: str) -> tuple[int, ...]:
    return _listed(int, text, "1,8,32")


def _numbers(text: str) -> tuple[float, ...]:
    return _listed(float, text, "0.5,5")


def _listed(read: Callable[[str], Number], text: str, example: str) -> tuple[Number, ...]:
    try:
        return tuple(map(read, text.split(",")))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"it takes numbers with commas between them, such as {example}, got {text!r}"
        ) from error
