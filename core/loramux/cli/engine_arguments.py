"""Command-line flags for every field of :class:`EngineArgs`, made from the fields themselves."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import Field, fields
from typing import Any, get_args, get_type_hints

from loramux.engine.args import EngineArgs
from loramux.errors import InvalidRequestError

HEADINGS = {
    "tokenizer": "model",
    "block_size": "memory and batching",
    "enable_lora": "adapters",
}
"""The field at which each part of ``--help`` begins; it goes on to the next one's first field."""


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``MODEL`` (also as ``--model``) and a flag for each other field."""
    parser.add_argument("model_tag", nargs="?", metavar="MODEL", help=_help(_specs()["model"]))
    parser.add_argument("--model", metavar="MODEL", help=argparse.SUPPRESS)
    hints = get_type_hints(EngineArgs)
    group: argparse._ActionsContainer = parser
    for name, spec in _flagged().items():
        if name in HEADINGS:
            group = parser.add_argument_group(HEADINGS[name])
        group.add_argument(_flag(name), dest=name, **_settings(spec, hints[name]))


def engine_args_from(
    arguments: argparse.Namespace, parser_error: Callable[[str], Any], **changes: Any
) -> EngineArgs:
    """The engine arguments of a command line.

    Args:
        arguments: what the parser of :func:`add_engine_arguments` has read.
        parser_error: called with a sentence where no model is given, or two.
        changes: fields that the command decides itself.

    Raises:
        InvalidRequestError: a value is out of range.
    """
    given = [name for name in (arguments.model_tag, arguments.model) if name is not None]
    configured = getattr(arguments, "configured_model", None)
    if not given and configured is not None:
        given = [configured]
    if len(given) != 1:
        parser_error("give exactly one MODEL: a directory or a Hugging Face id")
    values = {name: getattr(arguments, name) for name in _flagged()}
    return EngineArgs(model=given[0], **{**values, **changes})


def _specs() -> dict[str, Field[Any]]:
    return {spec.name: spec for spec in fields(EngineArgs)}


def _flagged() -> dict[str, Field[Any]]:
    """The fields that have a flag."""
    return {
        name: spec
        for name, spec in _specs().items()
        if spec.metadata.get("cli", True) and not spec.metadata.get("positional")
    }


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _settings(spec: Field[Any], hint: Any) -> dict[str, Any]:
    """What :meth:`ArgumentParser.add_argument` is told of a field."""
    settings: dict[str, Any] = {"default": spec.default, "help": _help(spec)}
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not type(None)]
    if kinds == [bool]:
        return {**settings, "action": argparse.BooleanOptionalAction}
    if kinds == [list[str]]:
        return {**settings, "nargs": "+", "metavar": "NAME"}
    if "parse" in spec.metadata:
        return {**settings, "type": reported(spec.metadata["parse"]), "metavar": "JSON"}
    if "choices" in spec.metadata:
        return {**settings, "choices": spec.metadata["choices"]}
    return {**settings, "type": kinds[0], "metavar": kinds[0].__name__.upper()}


def reported(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """``parse``, its refusals told as argparse tells its own."""

    def read(text: str) -> Any:
        try:
            return parse(text)
        except InvalidRequestError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read


def _help(spec: Field[Any]) -> str:
    text = str(spec.metadata["help"]).replace("%", "%%")
    has_default = spec.default is not None and isinstance(spec.default, bool | int | float | str)
    return f"{text} (default: {spec.default})" if has_default else text
